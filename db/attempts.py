"""Attempts: one start of a deployment, from its first stage to its end."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypedDict, Unpack

from sqlalchemy import func, select
from sqlalchemy.orm import Session, selectinload

from db.errors import NoSuchRow
from db.models import Attempt, Outcome, Stage, StageName, StageStatus, utc_now


class AttemptColumns(TypedDict, total=False):
    """What `update` may change; the rest has its own verbs."""

    argv: dict[str, Any] | None
    environment: dict[str, Any] | None
    pid: int | None
    pid_started_at: float | None
    port: int | None
    log_path: str | None
    log_offset: int
    cause: dict[str, Any] | None
    measured: dict[str, Any] | None
    ready_at: datetime | None


def begin(s: Session, deployment_id: str, stages: Sequence[tuple[StageName, float]]) -> Attempt:
    """The next attempt, with its stages (name, deadline in seconds) pending and loaded."""
    number = func.coalesce(func.max(Attempt.number), 0) + 1
    attempt = Attempt(
        deployment_id=deployment_id,
        number=s.scalar(select(number).where(Attempt.deployment_id == deployment_id)),
        stages=[
            Stage(name=name, position=position, deadline_s=deadline_s)
            for position, (name, deadline_s) in enumerate(stages)
        ],
    )
    s.add(attempt)
    s.flush()
    return attempt


def get(s: Session, attempt_id: int) -> Attempt:
    """One attempt with its stages loaded."""
    query = select(Attempt).where(Attempt.id == attempt_id).options(selectinload(Attempt.stages))
    attempt = s.scalar(query)
    if attempt is None:
        raise NoSuchRow(f"No attempt has the id {attempt_id}.")
    return attempt


def running(s: Session, deployment_id: str) -> Attempt | None:
    """The attempt that has not ended, with its stages loaded."""
    query = (
        select(Attempt)
        .where(Attempt.deployment_id == deployment_id, Attempt.ended_at.is_(None))
        .order_by(Attempt.number.desc())
        .limit(1)
    )
    return s.scalar(query.options(selectinload(Attempt.stages)))


def update(s: Session, attempt_id: int, **columns: Unpack[AttemptColumns]) -> None:
    """Change the given columns of an attempt."""
    unknown = columns.keys() - AttemptColumns.__annotations__.keys()
    assert not unknown, f"attempts.update cannot set {sorted(unknown)}"
    attempt = get(s, attempt_id)
    for name, value in columns.items():
        setattr(attempt, name, value)
    s.flush()


def mark_ready(s: Session, attempt_id: int, measured: dict[str, Any]) -> None:
    """Tokens advance: note when, for the first time, and what was measured."""
    attempt = get(s, attempt_id)
    attempt.ready_at = attempt.ready_at or utc_now()
    attempt.measured = measured
    s.flush()


def end(
    s: Session,
    attempt_id: int,
    outcome: Outcome,
    exit_code: int | None = None,
    cause: dict[str, Any] | None = None,
) -> None:
    """Close an attempt. A stage under way has failed, or was skipped if the stop was asked for;
    stages not begun are skipped. An attempt that has ended already stays as it is."""
    attempt = get(s, attempt_id)
    if attempt.ended_at is not None:
        return
    now = utc_now()
    attempt.outcome, attempt.exit_code, attempt.ended_at = outcome, exit_code, now
    attempt.cause = cause if cause is not None else attempt.cause
    was_asked = outcome is Outcome.STOPPED
    for stage in attempt.stages:
        if stage.status is StageStatus.RUNNING:
            stage.status = StageStatus.SKIPPED if was_asked else StageStatus.FAILED
            stage.ended_at = now
        elif stage.status is StageStatus.PENDING:
            stage.status = StageStatus.SKIPPED
    s.flush()
