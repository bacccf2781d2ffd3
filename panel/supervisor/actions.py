"""The steps that the supervisor can take; `lifecycle.next_action` chooses among them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from db.models import Outcome, StageName
from panel.supervisor.causes import Cause


@dataclass(frozen=True)
class Rest:
    """Nothing to do now."""


@dataclass(frozen=True)
class BeginAttempt:
    """Write down a new attempt with its stages."""


@dataclass(frozen=True)
class Work:
    """Begin our own work for a stage, or begin it again after its worker was lost."""

    stage: StageName


@dataclass(frozen=True)
class Start:
    """Start the engine, or adopt the one that was started but never written down."""


@dataclass(frozen=True)
class Progress:
    """Show how far the current stage is."""

    stage: StageName
    progress: float | None
    detail: str


@dataclass(frozen=True)
class Enter:
    """Begin a stage that the engine has reached by itself; earlier ones are done or skipped."""

    stage: StageName


@dataclass(frozen=True)
class Finish:
    """Our own work for a stage is done; keep what it gave. After the first token it is ready."""

    stage: StageName


@dataclass(frozen=True)
class MarkUnhealthy:
    """It was ready and does not answer now."""

    message: str


@dataclass(frozen=True)
class MarkHealthy:
    """It answers again."""


@dataclass(frozen=True)
class ForgetRestarts:
    """It has been ready for long: the next crash starts with a short back-off again."""


@dataclass(frozen=True)
class Terminate:
    """Ask the engine to end. cause: why we want it gone, None if the person does.

    is_permanent: starting it again would not help.
    """

    cause: Cause | None
    is_permanent: bool = False


@dataclass(frozen=True)
class Kill:
    """The grace is over: end the engine and all that it started."""


@dataclass(frozen=True)
class Collect:
    """The engine is gone: end what it left, read its last log lines, find the cause."""


@dataclass(frozen=True)
class EndStopped:
    """Close the attempt (if there is one) as asked for; the deployment is stopped."""


@dataclass(frozen=True)
class EndAndRetry:
    """Close the attempt and try again at `at`. restarts: how many that makes."""

    outcome: Outcome
    cause: Cause
    exit_code: int | None
    at: datetime
    restarts: int


@dataclass(frozen=True)
class EndAndGiveUp:
    """Close the attempt and do not try again; `why` says which limit was reached."""

    outcome: Outcome
    cause: Cause
    exit_code: int | None
    why: str


Action = (
    Rest
    | BeginAttempt
    | Work
    | Start
    | Progress
    | Enter
    | Finish
    | MarkUnhealthy
    | MarkHealthy
    | ForgetRestarts
    | Terminate
    | Kill
    | Collect
    | EndStopped
    | EndAndRetry
    | EndAndGiveUp
)
