"""`python -m engine.worker.rank --rank R --fd N --meeting-file PATH <engine options>`: a rank > 0.

Loads its part of the model, meets the others, and then computes whatever step rank 0 tells it, with
the same inputs. It samples nothing and knows no requests. Ends with rank 0.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from engine import logs
from engine.config import EngineConfig
from engine.core.process import die_with_parent
from engine.errors import ConfigError, EngineError, ModelError
from engine.worker.group import frame, receive, unpack

logger = logging.getLogger("engine.rank")


def main(argv: Sequence[str]) -> int:
    """Exit codes: 0 rank 0 closed the socket, 1 anything else."""
    die_with_parent()
    _, rank, _, number, _, meeting_file, *options = argv
    config = EngineConfig.parse(options)
    logs.setup(config.log_level)
    sock = socket.socket(fileno=int(number))
    try:
        _serve(config, int(rank), Path(meeting_file), sock)
    except Exception as error:  # noqa: BLE001  the one place where a rank tells why it ends
        return _tell_failure(int(rank), error, sock)
    return 0


def _serve(config: EngineConfig, index: int, meeting_file: Path, sock: socket.socket) -> None:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads OpenMP
    from engine.model.parallel import Rank
    from engine.worker.assembly import build
    from engine.worker.inputs import HostInputs

    rank = Rank(index, config.tensor_parallel_size)
    runner = build(config, _no_report, rank, meeting_file=meeting_file).runner
    while (values := receive(sock)) is not None:
        runner.follow(unpack(HostInputs, values))


def _no_report(stage: str, progress: float, detail: str) -> None:
    """Rank 0 tells how far loading is."""


def _tell_failure(rank: int, error: Exception, sock: socket.socket) -> int:
    if isinstance(error, EngineError):
        values = [type(error).__name__, error.message, error.fix]
    else:
        logger.error("Rank %d failed", rank, exc_info=error)
        values = ["RankLost", f"Rank {rank} failed: {type(error).__name__}: {error}", ""]
    try:
        sock.sendall(frame([*values, isinstance(error, ConfigError | ModelError)]))
    except OSError:
        logger.info("Rank %d ends after rank 0", rank)
    return 1


if __name__ == "__main__":
    exit_code = main(sys.argv[1:])
    logging.shutdown()
    os._exit(exit_code)  # as the core: nothing is left to save
