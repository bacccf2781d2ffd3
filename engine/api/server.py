"""The life of one engine: listen, start the cores, serve, and end with the right exit code.

port bound ─► HTTP up (/health: starting) ─► cores and tokenizer load ─► ready ─► …
asked to stop: admit nothing, let streams end, end the cores, close the port       exit 0
the last core or the tokenizer fails: say why, answer what is open, close          exit 1 or 2
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from engine import logs
from engine.api import chat
from engine.api.app import build_app
from engine.api.core_process import CORE_COMMAND
from engine.api.keeper import Failure, Keeper
from engine.api.keys import Keys
from engine.api.replicas import Replicas
from engine.api.shares import Share
from engine.api.state import EngineState
from engine.config import EngineConfig
from engine.core.messages import Fatal
from engine.errors import EngineError, ModelError

logger = logging.getLogger("engine.api")

EXIT_STOPPED, EXIT_FAILED, EXIT_REFUSED = 0, 1, 2

_KEEP_ALIVE_S = 65
"""Longer than the pools of usual clients keep an idle connection."""


@dataclass(frozen=True)
class Grace:
    """Seconds that each part of an end may take; 10 together."""

    drain_s: float = 6.0
    core_s: float = 0.5
    close_s: float = 1.0
    tell_s: float = 0.5
    """How long a dead engine still answers, so that its clients hear why."""


async def serve(
    config: EngineConfig,
    listener: socket.socket,
    keys: Keys,
    shares: Sequence[Share],
    *,
    core_command: Sequence[str] = CORE_COMMAND,
    grace: Grace | None = None,
) -> int:
    """Run the engine until it is asked to stop or fails; gives the exit code.

    shares: how each replica's core is started.
    """
    grace = grace or Grace()
    replicas = Replicas.of(config)
    state = EngineState(config, replicas, keys)
    keeper = Keeper(replicas, shares, core_command)
    server = _Server(_uvicorn_config(state, grace))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    stop = _stop_event()
    try:
        failure = await _run(state, keeper, serving, stop)
        if failure is None:
            await _drain(replicas, grace.drain_s, stop)
        else:
            await asyncio.sleep(grace.tell_s)
    finally:
        await keeper.end(grace.core_s)
        server.should_exit = True
        await serving
    if failure is None:
        logger.info("Stopped")
        return EXIT_STOPPED
    return EXIT_REFUSED if failure.is_refusal else EXIT_FAILED


async def _run(
    state: EngineState, keeper: Keeper, serving: asyncio.Task[None], stop: asyncio.Event
) -> Failure | None:
    """Bring the engine up and wait. Gives why it failed, None when it was asked to stop."""
    keeper.start()
    tokenizer = asyncio.create_task(_load_tokenizer(state))
    asked = asyncio.create_task(stop.wait())
    announced = asyncio.create_task(_announce(state, keeper, tokenizer))
    try:
        waiting = {asked, keeper.failed, serving, tokenizer}
        while True:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if asked in done:
                return None
            if tokenizer in done and (error := tokenizer.exception()):
                return _tokenizer_failed(state, error)
            if keeper.failed in done:
                failure = keeper.failed.result()
                fatal = failure.fatal
                logs.fatal_values(fatal.code, fatal.message, fatal.fix)
                return failure
            if serving in done:
                return Failure(Fatal("EngineUnavailable", "The HTTP server ended.", ""), False)
    finally:
        for task in (tokenizer, asked, announced):
            task.cancel()


async def _load_tokenizer(state: EngineState) -> None:
    state.vocabulary = await asyncio.to_thread(chat.load, Path(state.config.model_path))


async def _announce(state: EngineState, keeper: Keeper, tokenizer: asyncio.Task[None]) -> None:
    await keeper.became_ready.wait()
    await asyncio.wait({tokenizer})
    logger.info("Ready: %s after %.1f s", state.config.model_name, state.uptime_s)


def _tokenizer_failed(state: EngineState, error: BaseException) -> Failure:
    is_refusal = isinstance(error, ModelError)
    if not isinstance(error, ModelError):
        logger.error("Loading the tokenizer failed", exc_info=error)
        error = EngineError(f"Loading the tokenizer failed: {error!r}")
    logs.fatal(error)
    fatal = Fatal(type(error).__name__, error.message, error.fix)
    for link in state.link.links:
        state.link.give_up(link, fatal)
    return Failure(fatal, is_refusal)


async def _drain(link: Replicas, drain_s: float, stop: asyncio.Event) -> None:
    """Admit nothing more, and give running requests time to end. A second signal cuts it short."""
    logger.info("Asked to stop; %d requests are running", link.num_open)
    link.stop()
    stop.clear()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + drain_s
    while link.num_open and loop.time() < deadline and not stop.is_set():
        await asyncio.sleep(0.05)
    link.fail_open(link.why())


def _stop_event() -> asyncio.Event:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def _uvicorn_config(state: EngineState, grace: Grace) -> uvicorn.Config:
    return uvicorn.Config(
        build_app(state),
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(grace.close_s)),
        backlog=2048,
    )


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling, which would end the process by the signal."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:  # type: ignore[override]  # a plain generator will do
        yield
