"""`python -m engine.core.process --socket PATH <engine options>`: the process that computes.

Connects to the API process, loads the model while telling how far it is, says Ready, and serves
until the socket closes. Dies with its parent, whatever happens to it. Torch is imported only after
the connection stands, so the API process hears of it at once.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from typing import NoReturn

from engine import logs
from engine.config import EngineConfig
from engine.core.loop import Connection, Loop
from engine.core.messages import Fatal, Loading, Message
from engine.errors import ConfigError, EngineError, ModelError
from engine.model.folder import read_folder
from engine.worker.group import Group

logger = logging.getLogger("engine.core")

_PR_SET_PDEATHSIG = 1
_REPORT_EVERY_S = 0.1


class Progress:
    """Tells the API process how far loading is, at most ten times a second."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._told_at = 0.0
        self._stage = ""

    def __call__(self, stage: str, progress: float, detail: str) -> None:
        now = time.monotonic()
        if stage == self._stage and progress < 1 and now - self._told_at < _REPORT_EVERY_S:
            return
        if stage != self._stage or progress >= 1:
            logger.info("%s: %s", stage, detail)
        self._stage, self._told_at = stage, now
        self._connection.send(Loading(stage, progress, detail))


class _Shared(Connection):
    """May be written to by the thread that watches the other ranks too."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._lock = threading.Lock()

    def send(self, message: Message) -> None:
        with self._lock:
            super().send(message)


def main(argv: Sequence[str]) -> int:
    """Run a core. Exit codes: 0 the API process closed the socket, 2 a fault that starting again
    will not cure, 1 anything else."""
    words = list(argv)
    if words[:1] != ["--socket"] or len(words) < 2:
        sys.stderr.write("usage: python -m engine.core.process --socket PATH <engine options>\n")
        return 2
    die_with_parent()
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(words[1])
    connection = _Shared(sock)
    try:
        config = EngineConfig.parse(words[2:])
        logs.setup(config.log_level)
        _serve(config, connection)
    except EngineError as error:
        connection.send(Fatal(type(error).__name__, error.message, error.fix))
        return 2 if isinstance(error, ConfigError | ModelError) else 1
    except Exception as error:
        logger.exception("The engine core failed")
        connection.send(Fatal(type(error).__name__, str(error), ""))
        return 1
    finally:
        sock.close()
    return 0


def _serve(config: EngineConfig, connection: Connection) -> None:
    read_folder(config.model_path)  # before torch is imported: a bad folder is told at once
    report = Progress(connection)
    report("load", 0.0, "Importing torch")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads OpenMP
    group = _start_group(config, connection)
    try:
        from engine.worker.assembly import assemble

        engine = assemble(config, report, group)
        connection.send(engine.ready)
        Loop(connection, engine.scheduler, engine.runner).run()
    except EngineError:
        raise
    except Exception as error:
        if group:
            group.fail(error)
        raise
    finally:
        if group:
            group.end()


def _start_group(config: EngineConfig, connection: Connection) -> Group | None:
    if config.tensor_parallel_size == 1:
        return None

    def end_core(fatal: Fatal, is_refusal: bool) -> NoReturn:
        connection.send(fatal)
        logging.shutdown()
        os._exit(2 if is_refusal else 1)  # the other threads may be in a collective for ever

    return Group(config.tensor_parallel_size, config.to_argv(), end_core)


def die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the parent ends, and end if it already has.

    Source: prctl(2), PR_SET_PDEATHSIG. Does nothing where there is no such call.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)


if __name__ == "__main__":
    exit_code = main(sys.argv[1:])
    logging.shutdown()
    os._exit(exit_code)  # nothing is left to save, and taking torch apart takes up to seconds
