"""A small stand-in for a model hub on a loopback port: listing, ranges, and the ways hubs fail.

It speaks the few endpoints of Hugging Face and ModelScope that the panel uses, so the real client
libraries and the real transfer run against it.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """files: path → content. The rest says how the hub misbehaves.

    break_after: each answer with a file ends after so many bytes, this many times.
    """

    files: dict[str, bytes]
    endpoint: str = ""
    repo: str = "org/tiny"
    status: int = 200
    error_code: str = ""
    break_after: int | None = None
    num_breaks: int = 0
    holds: bool = False  # instead of breaking, such an answer goes on only when released
    num_busy: int = 0
    honours_ranges: bool = True
    corrupt: bool = False
    requests: list[tuple[str, str]] = field(default_factory=list)  # path, Range header
    released: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Run the hub for the length of a with block."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        hub, url = self.hub, urlsplit(self.path)
        hub.requests.append((url.path, self.headers.get("Range", "")))
        if hub.status != 200:
            body = json.dumps({"error": "refused", "Message": "refused", "Code": hub.status})
            extra = {"X-Error-Code": hub.error_code} if hub.error_code else {}
            return self._answer(hub.status, body.encode(), **extra)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if url.path.startswith(f"/api/models/{hub.repo}"):
            return self._json(self._huggingface_listing())
        if url.path == f"/api/v1/models/{hub.repo}/repo/files":
            return self._json(self._modelscope_listing())
        if url.path == f"/api/v1/models/{hub.repo}/repo":
            return self._file(query["FilePath"])
        if match := re.fullmatch(rf"/{hub.repo}/resolve/[^/]+/(.+)", url.path):
            return self._file(match[1])
        return self._answer(404, b"{}", **{"X-Error-Code": "RepoNotFound"})

    def _huggingface_listing(self) -> dict[str, Any]:
        siblings = []
        for path, data in self.hub.files.items():
            lfs = {"sha256": _sha256(data), "size": len(data), "pointerSize": 134}
            one = {"rfilename": path, "size": len(data), "blobId": "b"}
            siblings.append({**one, "lfs": lfs} if path.endswith(".safetensors") else one)
        return {"id": self.hub.repo, "sha": COMMIT, "siblings": siblings}

    def _modelscope_listing(self) -> dict[str, Any]:
        files = [
            {"Path": path, "Name": path, "Size": len(data), "Sha256": _sha256(data), "Type": "blob"}
            for path, data in self.hub.files.items()
        ]
        return {"Code": 200, "Success": True, "Data": {"Files": files, "TotalCount": len(files)}}

    def _file(self, path: str) -> None:
        hub, data = self.hub, self.hub.files.get(path)
        if data is None:
            return self._answer(404, b"", **{"X-Error-Code": "EntryNotFound"})
        if hub.num_busy:
            hub.num_busy -= 1
            return self._answer(503, b"")
        if hub.corrupt:
            data = bytes(len(data))
        start, end, status, extra = 0, len(data), 200, {}
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if match and hub.honours_ranges:
            start, status = int(match[1]), 206
            end = min(int(match[2]) + 1, len(data)) if match[2] else len(data)
            extra = {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}
        return self._answer(status, data[start:end], **extra)

    def _json(self, value: dict[str, Any]) -> None:
        self._answer(200, json.dumps(value).encode(), **{"Content-Type": "application/json"})

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        hub, is_file = self.hub, "Content-Type" not in headers
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if is_file and hub.num_breaks and hub.break_after and len(body) > hub.break_after:
            hub.num_breaks -= 1
            self.wfile.write(body[: hub.break_after])
            self.wfile.flush()
            if hub.holds:
                hub.released.wait(30)
            self.close_connection = True
            return
        self.wfile.write(body)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
