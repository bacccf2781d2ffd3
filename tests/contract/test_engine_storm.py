"""A storm of clients that leave when they like, against the real engine: nothing of them stays."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.contract.test_engine_process import Engine
from tests.contract.test_engine_process import model as model

STREAMS = 200
GAUGES = ("requests_running", "requests_waiting", "kv_blocks_used", "api_open_requests")


@pytest.fixture
def engine(model: Path, tmp_path: Path) -> Iterator[Engine]:
    options = ("--max-num-seqs", "64", "--log-level", "warning", "--block-size", "16")
    running = Engine(model, tmp_path / "log", *options)
    running.wait_until_ready()
    yield running
    running.end()


def test_streams_that_are_left_at_random_leave_no_block_slot_or_task(engine: Engine) -> None:
    engine.chat(max_tokens=2)
    before = figures(engine)
    outcomes = asyncio.run(storm(engine.port))
    assert outcomes.count("ended") >= STREAMS // 10
    assert outcomes.count("left") >= STREAMS // 4
    assert outcomes.count("ended") + outcomes.count("left") == STREAMS, outcomes
    deadline = time.monotonic() + 10
    while (left := what_is_left(engine, before)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == {}
    assert engine.chat(max_tokens=2).status_code == 200
    assert " ERROR " not in engine.log


async def storm(port: int) -> list[str]:
    chance = random.Random(0)
    return await asyncio.gather(*(client(port, chance.random()) for _ in range(STREAMS)))


async def client(port: int, luck: float) -> str:
    """One stream: a quarter reads to the end, the others leave at once, soon or later."""
    await asyncio.sleep(luck)
    fields = {"messages": [{"role": "user", "content": "x" * int(luck * 100)}], "stream": True}
    max_tokens = 10 if luck < 0.25 else 150
    body = json.dumps({**fields, "max_tokens": max_tokens, "ignore_eos": True}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        if luck < 0.25:
            text = await reader.read(-1)
            return "ended" if text.rstrip().endswith(b"data: [DONE]\n\n\r\n0") else text.decode()
        if luck > 0.5:
            await reader.readuntil(b'"content":')
        return "left"
    finally:
        if luck > 0.75:
            writer.transport.abort()
        writer.close()


def what_is_left(engine: Engine, before: dict[str, float]) -> dict[str, float]:
    after = figures(engine)
    left = {name: after[name] for name in GAUGES if after[name]}
    more_tasks = after["api_tasks"] - before["api_tasks"]
    return left | ({"api_tasks": more_tasks} if more_tasks > 0 else {})


def figures(engine: Engine) -> dict[str, float]:
    text = httpx.get(engine.url + "/metrics", trust_env=False, timeout=15).text
    return {
        name: float(value) for name, value in re.findall(r"^autoglm_(\w+) ([\d.]+)$", text, re.M)
    }
