"""A program that speaks the engine's HTTP contract and computes nothing.

    python stand_in_engine.py --port 8080 --name tiny --behave ok

--behave  ok                 loads at once and answers
          stuck              stays in the stage "load" for ever
          deaf               ignores SIGTERM, and so does its child
          bad_config         logs a fatal line and exits with 2
          crash_early        exits with 1 before it is ready
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FATAL = {"code": "ConfigError", "message": "--port is 'x'.", "fix": "Choose a number."}


def log(level: str, text: str) -> None:
    at = datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00")
    sys.stderr.write(f"{at}Z {level} {text}\n")
    sys.stderr.flush()


class Handler(BaseHTTPRequestHandler):
    options: argparse.Namespace

    def log_message(self, format: str, *args: Any) -> None:
        """/health is asked too often for the log."""

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self.answer(200, {"data": [{"id": self.options.name}]})
        elif self.options.behave == "stuck":
            self.answer(503, {"status": "starting", "stage": "load", "progress": 0.4})
        else:
            memory = {"weight_bytes": 1000, "kv_bytes": 10, "kv_tokens": 64, "peak_bytes": 2000}
            self.answer(200, {"status": "ok", "model": self.options.name, "memory": memory})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        usage = {"prompt_tokens": 1, "completion_tokens": 1}
        text = {"choices": [{"text": " x", "finish_reason": "length"}], "usage": usage}
        self.wfile.write(f"data: {json.dumps(text)}\n\ndata: [DONE]\n\n".encode())
        log("INFO", "stand_in.http answered")

    def answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--behave", required=True)
    Handler.options = options = parser.parse_args()
    log("INFO", f"stand_in.launch port {options.port}")
    if options.behave == "bad_config":
        log("ERROR", f"engine.fatal {json.dumps(FATAL)}")
        sys.exit(2)
    if options.behave == "crash_early":
        log("ERROR", "stand_in.core Uncaught ValueError\n    Traceback\n    ValueError: 7")
        sys.exit(1)
    if options.behave == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = ThreadingHTTPServer(("127.0.0.1", options.port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while True:
        time.sleep(1)


if __name__ == "__main__":
    main()
