"""Events: who asked for or decided what, and when. They are added, never changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.models import Event


def add(
    s: Session,
    deployment_id: str,
    *,
    kind: str,
    message: str,
    actor: str = "supervisor",
    attempt_id: int | None = None,
    data: dict[str, Any] | None = None,
) -> Event:
    event = Event(
        deployment_id=deployment_id,
        attempt_id=attempt_id,
        actor=actor,
        kind=kind,
        message=message,
        data=data,
    )
    s.add(event)
    s.flush()
    return event


def of(s: Session, deployment_id: str, limit: int = 200) -> Sequence[Event]:
    """The newest events of a deployment, in the order in which they happened."""
    query = select(Event).where(Event.deployment_id == deployment_id).order_by(Event.id.desc())
    return s.scalars(query.limit(limit)).all()[::-1]
