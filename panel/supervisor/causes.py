"""Why an engine ended, from what it said last and how it ended. Pure."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from panel.errors import PanelError, PortInUse

FATAL_LOGGER = "engine.fatal"

EXIT_PERMANENT = 2
"""The engine's exit code for an error that starting again will not cure."""

PERMANENT_CODES = frozenset(
    {"ConfigError", "ModelError", "UnsupportedModel", "ModelTooLarge", PortInUse.code}
)
"""The same for an adopted engine, whose exit code nobody learns."""

EVIDENCE_LINES = 20


@dataclass(frozen=True, kw_only=True)
class Cause:
    """What went wrong and what to do. evidence: the log lines that show it."""

    code: str
    message: str
    fix: str = ""
    evidence: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "evidence": list(self.evidence)}

    @classmethod
    def of_error(cls, error: PanelError) -> Cause:
        return cls(code=error.code, message=error.message, fix=error.fix)


@dataclass(frozen=True, kw_only=True)
class Exit:
    """How a program ended. code: negative for a signal, None if not known.

    is_permanent: starting it again would end the same way.
    """

    code: int | None
    cause: Cause
    is_permanent: bool


def explain_exit(code: int | None, last_lines: Sequence[str]) -> Exit:
    """Find the cause in the engine's last error lines, else in its exit code.

    last_lines: texts of the log's last lines of level error, oldest first.
    """
    evidence = tuple(last_lines[-EVIDENCE_LINES:])
    fatal = next(filter(None, map(fatal_cause, reversed(last_lines))), None)
    if fatal is not None:
        cause = replace(fatal, evidence=evidence)
    else:
        cause = Cause(
            code=_exit_code_name(code), message=_exit_words(code), fix=_FIX, evidence=evidence
        )
    is_permanent = code == EXIT_PERMANENT or (code is None and cause.code in PERMANENT_CODES)
    return Exit(code=code, cause=cause, is_permanent=is_permanent)


def fatal_cause(text: str) -> Cause | None:
    """The cause that a line `engine.fatal {"code": …}` tells, None for any other line."""
    logger, _, rest = text.partition(" ")
    if logger != FATAL_LOGGER:
        return None
    try:
        told = json.loads(rest)
        code = PortInUse.code if told["code"] == PortInUse.__name__ else told["code"]
        return Cause(code=code, message=told["message"], fix=told.get("fix", ""))
    except (ValueError, KeyError, TypeError):
        return Cause(code="fatal", message=rest)


_FIX = "See the last lines of the log."


def _exit_code_name(code: int | None) -> str:
    if code is None:
        return "ended"
    return "killed" if code < 0 else "exited"


def _exit_words(code: int | None) -> str:
    if code is None:
        return "The engine ended while no supervisor was watching; its exit code is not known."
    if code >= 0:
        return f"The engine exited with code {code}."
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "unknown"
    guess = ": perhaps the machine ran out of memory" if code == -signal.SIGKILL else ""
    return f"The engine was killed by signal {-code} ({name}){guess}."
