"""What the supervisor remembers of one attempt between two looks; all of it may be lost."""

from __future__ import annotations

from dataclasses import dataclass, field

from db.models import Attempt, utc_now
from panel.supervisor.causes import Exit
from panel.supervisor.jobs import Job
from panel.supervisor.logtail import Head
from panel.supervisor.probe import Checks
from panel.supervisor.seen import Ending
from panel.targets.process import ProcessId


@dataclass
class Watch:
    """exit: how the engine ended, or why it could not be started."""

    attempt_id: int | None = None
    job: Job | None = None
    checks: Checks = field(default_factory=Checks)
    ending: Ending | None = None
    exit: Exit | None = None
    head: Head = field(default_factory=lambda: Head(utc_now()))


def process_of(attempt: Attempt) -> ProcessId | None:
    """The engine's process as it was written down; None before it was started."""
    if attempt.pid is None or attempt.pid_started_at is None:
        return None
    return ProcessId(attempt.pid, attempt.pid_started_at, marker_of(attempt))


def marker_of(attempt: Attempt) -> str:
    """The name that all processes of an attempt carry."""
    return f"{attempt.deployment_id}/{attempt.number}"
