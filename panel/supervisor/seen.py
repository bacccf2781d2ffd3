"""What the supervisor saw in one look at one deployment: facts only, no judgement."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from db.models import StageName
from panel.client import Health
from panel.supervisor.causes import Cause, Exit


class JobStatus(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class JobSeen:
    """The supervisor's own work for one stage: checks, preparing the model, the first token.

    result: what it gave once done. exit: why it failed.
    """

    stage: StageName
    status: JobStatus
    progress: float | None = None
    detail: str = ""
    result: Any = None
    exit: Exit | None = None


@dataclass(frozen=True, kw_only=True)
class Ending:
    """We asked the engine to end. cause, is_permanent: as in the action Terminate."""

    since: datetime
    cause: Cause | None
    is_permanent: bool = False


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One look. The engine of an attempt is alive, or gone with `exit`, or was never started.

    health: the last answer of /health, None as long as there is none.
    failed_checks: so many in a row were not answered well, the first of them at failing_since.
    """

    job: JobSeen | None = None
    is_alive: bool = False
    exit: Exit | None = None
    health: Health | None = None
    failed_checks: int = 0
    failing_since: datetime | None = None
    ending: Ending | None = None
