"""CPU time of the API process for one streamed token, with a core that costs nothing.

    python -m tests.bench.http_cost MODEL_FOLDER [STREAMS] [TOKENS] [TOKENS_PER_STEP] [STEP_S]

The scripted core and the client are processes of their own; only the API process is measured, with
its system calls, from the moment when all streams are open. CPU time is what counts, so other work
on the machine disturbs little. `1000 100 1 0.05` offers 20,000 tokens/s: the tokens of a stream are
merged into one event only where the API process falls behind.
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


def run_core(path: str, streams: int, tokens: int, per_step: int, step_s: float) -> None:
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
        time.sleep(step_s)
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


async def measure(
    folder: str, streams: int, tokens: int, per_step: int, step_s: float
) -> tuple[float, float]:
    """Seconds of CPU, and of time, for each token."""
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
        core = context.Process(target=run_core, args=(str(path), streams, tokens, per_step, step_s))
        core.start()
        await link.became_ready.wait()
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        port = listener.getsockname()[1]
        client = context.Process(target=run_client, args=(port, streams, tokens))
        client.start()
        while link.num_open < streams:
            await asyncio.sleep(0.01)
        before, started = time.process_time(), time.perf_counter()
        while link.num_open:
            await asyncio.sleep(0.05)
        await asyncio.to_thread(client.join)
        used_s, passed_s = time.process_time() - before, time.perf_counter() - started
        server.should_exit = True
        await serving
        await link.close()
        await asyncio.to_thread(core.join)
    return used_s / (streams * tokens), passed_s / (streams * tokens)


if __name__ == "__main__":
    given = sys.argv[2:]
    streams, tokens, per_step = [*map(int, given[:3]), *(64, 300, 1)[len(given) :]]
    step_s = float(given[3]) if len(given) > 3 else 0.02
    cost_s, passed_s = asyncio.run(measure(sys.argv[1], streams, tokens, per_step, step_s))
    sys.stdout.write(
        f"{streams} streams, {per_step} tokens a step: {cost_s * 1e6:.0f} us of CPU a token, "
        f"{1 / cost_s:,.0f} tokens/s on one core; {1 / passed_s:,.0f} tokens/s came\n"
    )
