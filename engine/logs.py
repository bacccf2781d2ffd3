"""One log format for every process of an engine, so that one reader (the panel's) understands all.

    2026-11-22T17:48:01.123Z INFO engine.load 12 of 30 layers
    2026-11-22T17:48:03.480Z INFO engine.http POST /v1/completions 200 0.214 s request=6f1c…
    2026-11-22T17:48:09.002Z ERROR engine.fatal {"code": "ModelTooLarge", "message": …, "fix": …}

The time is UTC. What follows a line break (a traceback, a message of several lines) is indented:
a line that begins with a time is always a new entry, whatever a client put into a message.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, TextIO

from engine.errors import EngineError

FATAL = "engine.fatal"

_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


class LineFormatter(logging.Formatter):
    """Writes one entry: time, level, logger, message, the request it is about, a traceback."""

    converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        level = "ERROR" if record.levelno > logging.ERROR else record.levelname
        time_utc = f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}Z"
        text = f"{time_utc} {level} {record.name} {record.getMessage()}"
        request_id = getattr(record, "request_id", None) or _request_id.get()
        if request_id:
            text += f" request={request_id}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return "\n    ".join(text.splitlines())


def setup(level: str = "info", stream: TextIO | None = None) -> None:
    """Send every logger, Python's warnings and uncaught exceptions to `stream` (default: stderr).

    Replaces the root logger's handlers, so it may be called again with another level.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(LineFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("engine").setLevel(level.upper())
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught


def about(request_id: str) -> dict[str, Any]:
    """For `logger.info(…, extra=about(request_id))` where no `request` block is around."""
    return {"request_id": request_id}


@contextmanager
def request(request_id: str) -> Iterator[None]:
    """Name the request in every line that is logged inside the block (also across awaits)."""
    token = _request_id.set(request_id)
    try:
        yield
    finally:
        _request_id.reset(token)


def fatal(error: EngineError) -> None:
    """Write the line by which the panel learns why the engine ended. Call it just before exit."""
    fatal_values(type(error).__name__, error.message, error.fix)


def fatal_values(code: str, message: str, fix: str) -> None:
    """The same for an error that another process told about."""
    line = json.dumps({"code": code, "message": message, "fix": fix}, ensure_ascii=False)
    logging.getLogger(FATAL).error("%s", line)


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("engine").error("Uncaught %s", kind.__name__, exc_info=(kind, error, trace))
