"""The supervisor's own work, done beside the loop: short checks in a thread, preparing in a child.

A job is looked at, never waited for. What it leaves unfinished when the supervisor dies is begun
again by the next one, so every job must be harmless to repeat.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from typing import Any, Protocol

from db.log_lines import NewLine
from db.models import StageName
from engine.errors import EngineError
from panel.errors import PanelError
from panel.supervisor.causes import Cause, Exit
from panel.supervisor.probe import FirstTokenError
from panel.supervisor.seen import JobSeen, JobStatus


class Job(Protocol):
    """Work under way for one stage."""

    def look(self) -> JobSeen:
        """How far it is; the same answer for ever once it has ended."""
        ...

    def take_lines(self) -> list[NewLine]:
        """What it printed since the last call."""
        ...

    def cancel(self) -> None:
        """End it now, where that is possible."""
        ...


class ThreadJob:
    """A function of a second or two, called in a thread of its own."""

    def __init__(self, stage: StageName, work: Callable[[], Any]) -> None:
        self._seen = JobSeen(stage=stage, status=JobStatus.RUNNING)
        self._work = work
        threading.Thread(target=self._run, name=f"job-{stage}", daemon=True).start()

    def look(self) -> JobSeen:
        return self._seen

    def take_lines(self) -> list[NewLine]:
        return []

    def cancel(self) -> None:
        """Nobody looks at its answer any more; the thread ends by itself."""

    def _run(self) -> None:
        stage = self._seen.stage
        try:
            result = self._work()
        except Exception as error:  # noqa: BLE001  # part of the supervisor's loop: recorded in full
            self._seen = JobSeen(stage=stage, status=JobStatus.FAILED, exit=exit_of(error))
        else:
            self._seen = JobSeen(stage=stage, status=JobStatus.DONE, result=result)


def exit_of(error: Exception) -> Exit:
    """An exception as the end of an attempt. What a person must cure is permanent; a bug is not
    known to be, and carries its traceback."""
    if isinstance(error, FirstTokenError):
        return error.exit
    if isinstance(error, PanelError):
        return Exit(code=None, cause=Cause.of_error(error), is_permanent=True)
    if isinstance(error, EngineError):
        cause = Cause(code=type(error).__name__, message=error.message, fix=error.fix)
        return Exit(code=None, cause=cause, is_permanent=True)
    lines = tuple("".join(traceback.format_exception(error)).splitlines())
    cause = Cause(
        code="internal",
        message=f"{type(error).__name__}: {error}",
        fix="This is an error of the panel; the traceback tells where.",
        evidence=lines,
    )
    return Exit(code=None, cause=cause, is_permanent=False)
