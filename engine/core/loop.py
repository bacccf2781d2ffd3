"""The core's life after loading: receive, schedule, launch, commit, send; asleep when idle.

One thread, one socket. What the model computes is the runner's business, what comes next is the
scheduler's; the loop carries messages between them and the API process. An exception in a step
fails the requests of that step, each with an error, and nothing else.

With a runner that computes while the host goes on (a GPU), step n + 1 is launched before the
results of step n are taken in and sent, unless they are needed to sample it:

    device   | step n        | step n+1      | step n+2
    host     launch n+1 · commit n · send n  · launch n+2 · commit n+1 · send n+1
"""

from __future__ import annotations

import logging
import select
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from engine.core.messages import (
    Abort,
    Decoder,
    Failed,
    Message,
    SamplingParams,
    Step,
    Submit,
    encode,
)
from engine.core.scheduler import Batch, Sampled, Scheduler
from engine.errors import EngineBusy, RequestError

logger = logging.getLogger("engine.core")

_READ_BYTES = 2**20


class Results(Protocol):
    """A step on its way."""

    def wait(self) -> Sequence[Sampled]:
        """One Sampled for each chunk that is told, when they are there. Called once."""
        ...


class Runs(Protocol):
    """Computes batches, one after the other in the order of their launch."""

    is_asynchronous: bool
    """Whether `launch` comes back before the step is computed."""

    def launch(self, batch: Batch) -> Results: ...

    def admit(self, sampling: SamplingParams) -> None:
        """Make ready what a request's grammar needs. Raises RequestError."""
        ...


@dataclass(frozen=True, slots=True)
class _Flight:
    batch: Batch
    results: Results


class Connection:
    """The core's end of the socket: whole messages in and out."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._decoder = Decoder()
        self.is_closed = False

    def send(self, message: Message) -> None:
        """Raises nothing when the other side is gone; `is_closed` tells."""
        try:
            self._socket.sendall(encode(message))
        except (BrokenPipeError, ConnectionResetError):
            self.is_closed = True

    def receive(self, timeout_s: float | None) -> list[Message]:
        """What has arrived; sleeps until something does, or for at most `timeout_s`."""
        readable, _, _ = select.select([self._socket], [], [], timeout_s)
        if not readable:
            return []
        try:
            data = self._socket.recv(_READ_BYTES)
        except ConnectionResetError:
            data = b""
        self.is_closed = self.is_closed or not data
        return self._decoder.feed(data)


class Loop:
    """Serves one connection until the other side closes it."""

    def __init__(self, connection: Connection, scheduler: Scheduler, runner: Runs) -> None:
        self._connection = connection
        self._scheduler = scheduler
        self._runner = runner
        self._flight: _Flight | None = None
        """The step whose results are still to be taken in, while the next one is scheduled."""

    def run(self) -> None:
        connection, scheduler = self._connection, self._scheduler
        while not connection.is_closed:
            for message in connection.receive(self._sleep_s()):
                self._take(message)
            self._expire()
            if scheduler.gathering_s and not self._flight:
                continue
            if scheduler.has_work or self._flight:
                self._step()
            elif not connection.is_closed:
                scheduler.check_invariants()
                connection.send(Step([], scheduler.stats()))

    def _sleep_s(self) -> float | None:
        """How long nothing but a message matters; None: for ever."""
        if self._flight:
            return 0.0
        return self._scheduler.gathering_s if self._scheduler.has_work else None

    def _take(self, message: Message) -> None:
        match message:
            case Submit():
                self._submit(message)
            case Abort():
                self._scheduler.abort(message.request_id)
            case _:
                raise AssertionError(f"the API process sent {type(message).__name__}")

    def _submit(self, submit: Submit) -> None:
        try:
            if submit.sampling.grammar is not None:
                self._runner.admit(submit.sampling)
            self._scheduler.submit(
                submit.request_id,
                submit.prompt_ids,
                submit.sampling,
                priority=submit.priority,
                timeout_s=submit.timeout_s,
            )
        except RequestError as error:
            self._connection.send(Failed(submit.request_id, "request", str(error)))
        except EngineBusy as error:
            failed = Failed(submit.request_id, "busy", str(error), error.retry_after_s)
            self._connection.send(failed)

    def _expire(self) -> None:
        for request in self._scheduler.expire():
            asked_s = (request.deadline or 0) - request.arrived_at
            message = (
                f"The request was not done within its {asked_s:.3g} s: {request.num_generated} "
                f"tokens were made. Ask for fewer tokens or allow more time."
            )
            self._connection.send(Failed(request.request_id, "timeout", message))

    def _step(self) -> None:
        """Launch a step; take in the one before, and this one too unless the next may run ahead."""
        before = self._flight
        self._flight = self._launch()
        if before:
            self._land(before)
        if self._flight and not self._may_run_ahead(self._flight.batch):
            flight, self._flight = self._flight, None
            self._land(flight)

    def _may_run_ahead(self, batch: Batch) -> bool:
        return self._runner.is_asynchronous and self._scheduler.may_run_ahead(batch)

    def _launch(self) -> _Flight | None:
        batch = self._scheduler.schedule()
        if not batch:
            return None
        try:
            results = self._runner.launch(batch)
        except Exception as error:
            logger.exception("A step of %d requests could not be launched", len(batch))
            self._fail(batch, error)
            return None
        if self._may_run_ahead(batch):
            self._scheduler.launched(batch)
        return _Flight(batch, results)

    def _land(self, flight: _Flight) -> None:
        try:
            outputs = self._scheduler.commit(flight.batch, flight.results.wait())
        except Exception as error:
            logger.exception("A step of %d requests failed", len(flight.batch))
            self._fail(flight.batch, error)
            return
        self._connection.send(Step(outputs, self._scheduler.stats()))

    def _fail(self, batch: Batch, error: Exception) -> None:
        for request in self._scheduler.fail(batch):
            message = f"The engine failed on this request: {type(error).__name__}: {error}"
            self._connection.send(Failed(request.request_id, "internal", message))
        self._connection.send(Step([], self._scheduler.stats()))
