"""The API process's end of the socket to the core: requests go out, tokens come back.

    submit ──► registry: request id → mailbox ──► frames ──► core
    core ──► one `Step` per engine step ──► each output into its request's mailbox

Tokens that arrive before their reader wakes up are merged, so a slow client costs no extra event.
This module knows no process: how the core is started and ends is `core_process`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from engine import logs
from engine.api.errors import ApiError, engine_unavailable, request_failed
from engine.core.messages import (
    Abort,
    Decoder,
    Failed,
    Fatal,
    Loading,
    Message,
    Output,
    Ready,
    Stats,
    Step,
    Submit,
    encode,
)

logger = logging.getLogger("engine.api")

_READ_BYTES = 1 << 18


class Phase(StrEnum):
    STARTING = "starting"
    READY = "ok"
    STOPPING = "stopping"
    DEAD = "dead"


@dataclass(slots=True)
class Mailbox:
    """Where the outputs of one HTTP request's choices wait until its task takes them."""

    _outputs: dict[int, Output] = field(default_factory=dict)
    _error: ApiError | None = None
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, choice: int, output: Output) -> None:
        """Add new tokens of one choice, behind those that still wait."""
        waiting = self._outputs.get(choice)
        self._outputs[choice] = _merge(waiting, output) if waiting else output
        self._news.set()

    def fail(self, error: ApiError) -> None:
        """End the reader: it gets the outputs that wait, then the error."""
        self._error = self._error or error
        self._news.set()

    async def take(self) -> dict[int, Output]:
        """What has arrived by choice, at least one output. Raises the error of `fail`."""
        await self._news.wait()
        self._news.clear()
        outputs, self._outputs = self._outputs, {}
        if self._error:
            if not outputs:
                raise self._error
            self._news.set()
        return outputs


def _merge(first: Output, second: Output) -> Output:
    both_logprobs = None
    if first.logprobs is not None and second.logprobs is not None:
        both_logprobs = first.logprobs + second.logprobs
    return replace(
        second,
        token_ids=first.token_ids + second.token_ids,
        logprobs=both_logprobs,
        cached_tokens=first.cached_tokens + second.cached_tokens,
        times_s=first.times_s or second.times_s,
        prompt=[*(first.prompt or ()), *(second.prompt or ())] or None,
    )


@dataclass(slots=True)
class OpenRequest:
    """Where the outputs of one choice go. submit: None once tokens came, as it then cannot begin
    again with another core."""

    submit: Submit | None
    mailbox: Mailbox
    choice: int


class CoreLink:
    """Listens on a socket for the one core, and keeps what it told about itself.

    take_over: asked for each open request when the core is lost, whether someone else answers it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.phase = Phase.STARTING
        self.loading = Loading("start", 0.0, "Starting the engine core")
        self.ready: Ready | None = None
        self.stats: Stats | None = None
        self.fatal: Fatal | None = None
        self.last_step_at: float | None = None
        self.connected = asyncio.Event()
        self.became_ready = asyncio.Event()
        self.lost = asyncio.Event()
        self.stepped = asyncio.Event()
        self.clock = clock
        self.take_over: Callable[[OpenRequest], bool] = _nobody
        self._open: dict[str, OpenRequest] = {}
        self._server: asyncio.AbstractServer | None = None
        self._writer: asyncio.StreamWriter | None = None

    @property
    def num_open(self) -> int:
        """Requests that have not ended (each choice of an HTTP request is one)."""
        return len(self._open)

    async def listen(self, path: Path) -> None:
        self._server = await asyncio.start_unix_server(self._serve_core, path, limit=_READ_BYTES)

    def submit(self, submit: Submit, mailbox: Mailbox, choice: int) -> None:
        """Send a request; its outputs come to `mailbox` under `choice`.

        Raises ApiError (503) unless the core is ready.
        """
        if self.phase is not Phase.READY:
            raise engine_unavailable(self.phase, self.why())
        assert submit.request_id not in self._open, submit.request_id
        self._open[submit.request_id] = OpenRequest(submit, mailbox, choice)
        self._send(submit)

    def abort(self, request_id: str) -> None:
        """End a request whose answer nobody wants any more. Harmless when it has ended."""
        if self._open.pop(request_id, None):
            self._send(Abort(request_id))

    def stop(self) -> None:
        """Admit nothing more; what runs goes on."""
        if self.phase is not Phase.DEAD:
            self.phase = Phase.STOPPING

    def fail_open(self, detail: str) -> None:
        """End every open request with an error that says why."""
        for request_id, request in list(self._open.items()):
            request.mailbox.fail(engine_unavailable(self.phase, detail))
            self.abort(request_id)

    async def close(self) -> None:
        """Close both sockets: for the core this is the sign to end."""
        if self._server:
            self._server.close()
        if self._writer:
            self._writer.transport.abort()  # a core that reads no more would never take the rest
            with suppress(OSError):
                await self._writer.wait_closed()

    def lose(self) -> None:
        """The core is gone: every open request is taken over or gets an error. Harmless the second
        time."""
        if self.phase is not Phase.STOPPING:
            self.phase = Phase.DEAD
        for request_id, request in list(self._open.items()):
            if self.take_over(request):
                del self._open[request_id]
        self.fail_open(self.why())
        self.lost.set()

    def why(self) -> str:
        """Why requests are refused in this phase."""
        if self.fatal:
            return f"{self.fatal.message} {self.fatal.fix}".strip()
        match self.phase:
            case Phase.STARTING | Phase.READY:
                return self.loading.detail
            case Phase.STOPPING:
                return "It was asked to stop."
            case Phase.DEAD:
                return "The engine core has ended."

    def _send(self, message: Message) -> None:
        if self._writer and not self._writer.is_closing():
            self._writer.write(encode(message))

    async def _serve_core(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._writer:
            writer.close()
            return
        self._writer = writer
        self.connected.set()
        decoder = Decoder()
        try:
            while data := await reader.read(_READ_BYTES):
                for message in decoder.feed(data):
                    self._receive(message)
        except (OSError, ValueError) as error:
            logger.error("The socket to the engine core broke: %s", error)
        finally:
            writer.close()
            self.lose()

    def _receive(self, message: Message) -> None:
        match message:
            case Step():
                self._receive_step(message)
            case Failed():
                self._receive_failed(message)
            case Loading():
                self.loading = message
            case Ready():
                self.ready = message
                if self.phase is Phase.STARTING:
                    self.phase = Phase.READY
                self.became_ready.set()
            case Fatal():
                self.fatal = message
            case Submit() | Abort():
                raise ValueError(f"the core sent {type(message).__name__}")

    def _receive_step(self, step: Step) -> None:
        if self.stats is None or step.stats.steps != self.stats.steps:
            self.last_step_at = self.clock()
            self.stepped.set()
        self.stats = step.stats
        for output in step.outputs:
            request = self._open.get(output.request_id)
            if request is None:
                continue  # aborted while this step was computed
            request.submit = None
            if output.finish_reason:
                del self._open[output.request_id]
            request.mailbox.put(request.choice, output)

    def _receive_failed(self, failed: Failed) -> None:
        request = self._open.pop(failed.request_id, None)
        if request is None:
            return
        logger.warning("Request failed: %s", failed.message, extra=logs.about(failed.request_id))
        request.mailbox.fail(request_failed(failed))


def _nobody(_: OpenRequest) -> bool:
    return False
