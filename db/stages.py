"""Stages: the steps of an attempt, as they begin, advance and end."""

from __future__ import annotations

from collections import defaultdict
from statistics import median

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.errors import NoSuchRow
from db.models import Attempt, Deployment, Stage, StageName, StageStatus, utc_now

_STAGES_LOOKED_AT = 300  # of the newest attempts: older ones describe another version


def start(s: Session, attempt_id: int, name: StageName) -> None:
    """The stage is under way. Its clock starts once, also if this is said again."""
    stage = _row(s, attempt_id, name)
    stage.status = StageStatus.RUNNING
    stage.started_at = stage.started_at or utc_now()
    stage.ended_at = None
    s.flush()


def progress(
    s: Session, attempt_id: int, name: StageName, progress: float | None, detail: str
) -> None:
    """How far a stage is, 0 … 1 where that is known, and in words."""
    stage = _row(s, attempt_id, name)
    stage.progress, stage.detail = progress, detail
    s.flush()


def finish(s: Session, attempt_id: int, name: StageName, detail: str | None = None) -> None:
    """The stage is done; `detail` replaces what was said last."""
    _end(s, attempt_id, name, StageStatus.DONE, detail).progress = 1.0
    s.flush()


def fail(s: Session, attempt_id: int, name: StageName, detail: str | None = None) -> None:
    _end(s, attempt_id, name, StageStatus.FAILED, detail)


def skip(s: Session, attempt_id: int, name: StageName, detail: str | None = None) -> None:
    """Nothing had to be done (the model is already here)."""
    _end(s, attempt_id, name, StageStatus.SKIPPED, detail)


def typical_durations(s: Session, source: str) -> dict[StageName, float]:
    """Seconds that each stage took in the past for this model source: medians of finished ones."""
    query = (
        select(Stage)
        .join(Attempt, Stage.attempt_id == Attempt.id)
        .join(Deployment, Attempt.deployment_id == Deployment.id)
        .where(Deployment.plan["source"].as_string() == source)
        .where(Stage.status == StageStatus.DONE)
        .order_by(Stage.id.desc())
        .limit(_STAGES_LOOKED_AT)
    )
    seconds: dict[StageName, list[float]] = defaultdict(list)
    for stage in s.scalars(query):
        if stage.duration_s is not None:
            seconds[stage.name].append(stage.duration_s)
    return {name: median(durations) for name, durations in seconds.items()}


def _end(
    s: Session, attempt_id: int, name: StageName, status: StageStatus, detail: str | None
) -> Stage:
    stage = _row(s, attempt_id, name)
    now = utc_now()
    stage.status, stage.ended_at = status, now
    if status is not StageStatus.SKIPPED:
        stage.started_at = stage.started_at or now
    if detail is not None:
        stage.detail = detail
    s.flush()
    return stage


def _row(s: Session, attempt_id: int, name: StageName) -> Stage:
    stage = s.scalar(select(Stage).where(Stage.attempt_id == attempt_id, Stage.name == name))
    if stage is None:
        raise NoSuchRow(f"Attempt {attempt_id} has no stage {name}.")
    return stage
