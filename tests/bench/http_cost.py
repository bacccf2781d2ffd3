"""CPU time of the API process for one streamed token, with a core that costs nothing.

    python -m tests.bench.http_cost MODEL_FOLDER [STREAMS] [TOKENS] [TOKENS_PER_STEP]

The scripted core and the client are processes of their own; only the API process is measured, with
its system calls. Nothing else should run on the machine.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import selectors
import socket
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import uvicorn

from engine.api.app import build_app
from engine.api.chat import load
from engine.api.core_link import CoreLink
from engine.api.keys import Keys
from engine.api.replicas import Replicas
from engine.api.state import EngineState
from engine.config import EngineConfig
from engine.core.messages import Decoder, Output, Stats, Step, Submit, encode
from tests.contract.fake_core import READY

STEP_S = 0.02


def run_core(path: str, streams: int, tokens: int, per_step: int) -> None:
    """Wait for every stream, then give each the same tokens, step by step."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    sock.sendall(encode(replace(READY, max_seq_length=1_000_000)))
    decoder, ids = Decoder(), list[str]()
    while len(ids) < streams:
        ids += [m.request_id for m in decoder.feed(sock.recv(1 << 20)) if isinstance(m, Submit)]
    stats = Stats(streams, 0, 0, 1, 0, 0, 0, 0, 0)
    for done in range(per_step, tokens + 1, per_step):
        reason = "length" if done + per_step > tokens else None
        outputs = [Output(request_id, [28] * per_step, reason) for request_id in ids]
        sock.sendall(encode(Step(outputs, replace(stats, steps=done))))
        time.sleep(STEP_S)
    sock.recv(1)  # until the API process closes it


def run_client(port: int, streams: int, tokens: int) -> None:
    """Ask for every stream and throw the answers away."""
    fields = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
    body = json.dumps({**fields, "max_tokens": tokens}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    selector = selectors.DefaultSelector()
    for _ in range(streams):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        selector.register(sock, selectors.EVENT_READ, sock)
    while selector.get_map():
        for key, _ in selector.select():
            if not key.data.recv(1 << 18):
                selector.unregister(key.data)
                key.data.close()


async def measure(folder: str, streams: int, tokens: int, per_step: int) -> float:
    """Seconds of CPU for each token."""
    link = CoreLink()
    config = EngineConfig(model_path=folder)
    state = EngineState(config, Replicas([link]), Keys(), load(Path(folder)))
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    config = uvicorn.Config(build_app(state), log_config=None, lifespan="off", ws="none")
    server = uvicorn.Server(config)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "core.sock"
        await link.listen(path)
        core = context.Process(target=run_core, args=(str(path), streams, tokens, per_step))
        core.start()
        await link.became_ready.wait()
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        port = listener.getsockname()[1]
        client = context.Process(target=run_client, args=(port, streams, tokens))
        client.start()
        while link.num_open < streams:
            await asyncio.sleep(0.01)
        before = time.process_time()
        while link.num_open:
            await asyncio.sleep(0.05)
        await asyncio.to_thread(client.join)
        used_s = time.process_time() - before
        server.should_exit = True
        await serving
        await link.close()
        await asyncio.to_thread(core.join)
    return used_s / (streams * tokens)


if __name__ == "__main__":
    streams, tokens, per_step = [*map(int, sys.argv[2:]), *(64, 300, 1)[len(sys.argv) - 2 :]]
    cost_s = asyncio.run(measure(sys.argv[1], streams, tokens, per_step))
    sys.stdout.write(
        f"{streams} streams, {per_step} tokens a step: {cost_s * 1e6:.0f} us of CPU a token, "
        f"{1 / cost_s:,.0f} tokens/s on one core\n"
    )
