"""The core's life after loading: receive, schedule, run, commit, send; asleep when nothing to do.

One thread, one socket. What the model computes is the runner's business, what comes next is the
scheduler's; the loop carries messages between them and the API process. An exception in a step
fails the requests of that step, each with an error, and nothing else.
"""

from __future__ import annotations

import logging
import select
import socket
from collections.abc import Sequence
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
from engine.errors import RequestError

logger = logging.getLogger("engine.core")

_READ_BYTES = 2**20


class Runs(Protocol):
    """Computes a batch: one Sampled for each chunk that is sampled."""

    def run(self, batch: Batch) -> Sequence[Sampled]: ...

    def admit(self, sampling: SamplingParams) -> None:
        """Make ready what a request's grammar needs. Raises RequestError."""
        ...


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

    def receive(self, *, wait: bool) -> list[Message]:
        """What has arrived; with `wait`, sleeps until something does. Empty at the end."""
        readable, _, _ = select.select([self._socket], [], [], None if wait else 0)
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

    def run(self) -> None:
        connection, scheduler = self._connection, self._scheduler
        while not connection.is_closed:
            for message in connection.receive(wait=not scheduler.has_work):
                self._take(message)
            if scheduler.has_work:
                self._step()
            elif not connection.is_closed:
                scheduler.check_invariants()
                connection.send(Step([], scheduler.stats()))

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
            self._scheduler.submit(submit.request_id, submit.prompt_ids, submit.sampling)
        except RequestError as error:
            self._connection.send(Failed(submit.request_id, "request", str(error)))

    def _step(self) -> None:
        batch = self._scheduler.schedule()
        try:
            outputs = self._scheduler.commit(batch, self._runner.run(batch))
        except Exception as error:
            logger.exception("A step of %d requests failed", len(batch))
            self._fail(batch, error)
            outputs = []
        self._connection.send(Step(outputs, self._scheduler.stats()))

    def _fail(self, batch: Batch, error: Exception) -> None:
        for request in self._scheduler.fail(batch):
            message = f"The engine failed on this request: {type(error).__name__}: {error}"
            self._connection.send(Failed(request.request_id, "internal", message))
