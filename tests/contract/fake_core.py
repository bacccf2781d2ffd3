"""A stand-in for the engine core: real messages on the real socket, but the tokens are scripted.

`Harness` runs the HTTP application on a free port in a thread, with a FakeCore connected to it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import openai
import uvicorn

from engine.api.app import build_app
from engine.api.chat import Vocabulary
from engine.api.core_link import CoreLink
from engine.api.health import Health
from engine.api.keys import Keys
from engine.api.replicas import Replicas
from engine.api.state import EngineState
from engine.config import EngineConfig
from engine.core.messages import (
    Abort,
    Decoder,
    Failed,
    Loading,
    Message,
    Output,
    PromptPart,
    Ready,
    Stats,
    Step,
    Submit,
    encode,
)
from tests.contract.tiny_tokenizer import EOS_ID

READY = Ready(
    model_type="llama",
    device="cpu",
    dtype="float32",
    attention="reference",
    weight_bytes=1000,
    kv_bytes=2000,
    kv_tokens=1024,
    block_size=64,
    max_seq_length=256,
    load_s=0.1,
    warm_up_s=0.1,
    peak_bytes=4000,
)

ANSWER = "Paris — 巴黎 🗼."


@dataclass
class Script:
    """What the fake core answers: the bytes of a text (or these ids), then the end token.

    per_step: tokens of one step. step_s: time of a step. is_mute: takes requests, says nothing.
    fail: an error instead of an answer. hangs_after: tokens after which it says nothing more.
    """

    text: str = ANSWER
    per_step: int = 1
    step_s: float = 0.0
    is_mute: bool = False
    fail: str | None = None
    hangs_after: int | None = None
    ids: list[int] | None = None


class FakeCore:
    """The core's end of the socket."""

    def __init__(self, path: Path) -> None:
        self.script = Script()
        self.submitted: list[Submit] = []
        self.aborted: list[str] = []
        self.stats = Stats(0, 0, 0, 16, 0, 0, 0, 0, 0)
        self._path = path
        self._writer: asyncio.StreamWriter | None = None
        self._running: dict[str, asyncio.Task[None]] = {}

    @property
    def is_connected(self) -> bool:
        return self._writer is not None

    def forget(self) -> None:
        """Be as at the beginning, for the next test."""
        for task in self._running.values():
            task.cancel()
        self._running.clear()
        self.submitted.clear()
        self.aborted.clear()
        self.script = Script()
        self.stats = replace(self.stats, generated_tokens=0)

    async def run(self) -> None:
        reader, self._writer = await asyncio.open_unix_connection(self._path)
        decoder = Decoder()
        try:
            while data := await reader.read(1 << 16):
                for message in decoder.feed(data):
                    self._take(message)
        finally:
            self.die()
            with suppress(OSError):
                await self._writer.wait_closed()

    def send(self, message: Message) -> None:
        assert self._writer
        self._writer.write(encode(message))

    def die(self) -> None:
        for task in self._running.values():
            task.cancel()
        assert self._writer
        self._writer.close()

    def _take(self, message: Message) -> None:
        if isinstance(message, Submit):
            self.submitted.append(message)
            task = asyncio.create_task(self._answer(message, self.script))
            self._running[message.request_id] = task
        elif isinstance(message, Abort):
            self.aborted.append(message.request_id)
            if task := self._running.pop(message.request_id, None):
                task.cancel()

    async def _answer(self, submit: Submit, script: Script) -> None:
        if script.is_mute:
            return
        if script.fail:
            self.send(Failed(submit.request_id, script.fail, f"scripted {script.fail}"))
            return
        ids = [*(script.ids or script.text.encode()), EOS_ID]
        ends = (
            EOS_ID in submit.sampling.stop_token_ids and len(ids) <= submit.sampling.max_new_tokens
        )
        ids = ids[: submit.sampling.max_new_tokens]
        if script.hangs_after is not None:
            ids = [*ids[: script.hangs_after], 0]
        for start in range(0, len(ids), script.per_step):
            part = ids[start : start + script.per_step]
            is_last = start + script.per_step >= len(ids)
            if is_last and script.hangs_after is not None:
                return
            reason = ("stop" if ends else "length") if is_last else None
            logprobs = None
            if submit.sampling.logprobs is not None:
                likeliest = [[i, -1.0] for i in range(65, 65 + submit.sampling.logprobs)]
                logprobs = [[-0.5, likeliest] for _ in part]
            is_first = start == 0
            self._step(
                Output(
                    submit.request_id,
                    part,
                    reason,
                    logprobs,
                    times_s=[0.25, 0.5] if is_first else None,
                    prompt=_prompt_parts(submit) if is_first else None,
                )
            )
            await asyncio.sleep(script.step_s)

    def _step(self, output: Output) -> None:
        stats = self.stats
        self.stats = replace(
            stats,
            steps=stats.steps + 1,
            generated_tokens=stats.generated_tokens + len(output.token_ids),
        )
        self.send(Step([output], self.stats))


def _prompt_parts(submit: Submit) -> list[PromptPart] | None:
    """A part that a preemption made void, then the prompt in two."""
    ids, sampling = submit.prompt_ids, submit.sampling
    if not sampling.reads_prompt:
        return None
    count = sampling.prompt_logprobs
    entries = None
    if count is not None:
        likeliest = [[i, -1.0] for i in range(65, 65 + count)]
        entries = [[-float(token), likeliest] for token in ids[1:]]
    half = len(ids) // 2
    vectors = [
        struct.pack("3f", len(part), *part[:1], 0.0) if part and sampling.pooling else None
        for part in (ids, ids[:half], ids[half:])
    ]
    void = PromptPart(0, entries, vectors[0])
    if not half:
        return [void, void]
    first, second = (None, None) if entries is None else (entries[:half], entries[half:])
    return [void, PromptPart(0, first, vectors[1]), PromptPart(half, second, vectors[2])]


class Harness:
    """The API on a real port, its loop in a thread of its own."""

    def __init__(
        self,
        folder: Path,
        vocabulary: Vocabulary,
        *,
        keys: tuple[str, ...] = (),
        options: dict[str, Any] | None = None,
        health_deadline_s: float = 10.0,
    ) -> None:
        self._config = EngineConfig(
            model_path=str(folder), served_model_name="tiny", **(options or {})
        )
        self._vocabulary = vocabulary
        self._keys = Keys(keys)
        self._deadline_s = health_deadline_s
        self._socket_path = folder.parent / "core.sock"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Harness:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(setattr, self._server, "should_exit", True)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def call(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Run a function in the loop's thread and wait for it."""
        done = threading.Event()
        self.loop.call_soon_threadsafe(lambda: (function(*arguments), done.set()))
        assert done.wait(5)

    def make_ready(self, max_seq_length: int = READY.max_seq_length) -> None:
        self.call(self.core.send, replace(READY, max_seq_length=max_seq_length))
        self.until(lambda: self.link.ready is not None)

    def until(self, condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
        """Wait until something that the loop's thread does has happened."""
        reached = threading.Event()

        async def look() -> None:
            while not condition():
                await asyncio.sleep(0.005)
            reached.set()

        future = asyncio.run_coroutine_threadsafe(look(), self.loop)
        if not reached.wait(timeout_s):
            future.cancel()
            raise AssertionError("the condition was not reached in time")

    async def _run(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.link = CoreLink()
        self.state = EngineState(self._config, Replicas([self.link]), self._keys, self._vocabulary)
        health = Health(self.state, deadline_s=self._deadline_s)
        self.app = build_app(self.state, health)
        config = uvicorn.Config(
            self.app,
            log_config=None,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        await self.link.listen(self._socket_path)
        self.core = FakeCore(self._socket_path)
        core = asyncio.create_task(self.core.run())
        serving = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        while not (self._server.started and self.link.connected.is_set()):
            await asyncio.sleep(0.005)
        self.core.send(Loading("load", 0.4, "12 of 30 layers"))
        while self.link.loading.stage != "load":
            await asyncio.sleep(0.005)
        self._started.set()
        await serving
        await self.link.close()
        await core


def openai_client(harness: Harness, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(
        base_url=harness.url + "/v1",
        api_key=key,
        max_retries=0,
        http_client=httpx.Client(trust_env=False, timeout=10),
    )
