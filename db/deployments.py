"""Deployments: what people asked for and what was last seen of it."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from datetime import datetime
from types import EllipsisType
from typing import Any

from sqlalchemy import and_, false, or_, select
from sqlalchemy import delete as sql_delete
from sqlalchemy.orm import Session, selectinload

from db import events
from db.errors import NoSuchRow, StillActive
from db.models import Attempt, Deployment, Desired, LogLine, State

_FINAL = [state for state in State if state.is_final]
_ID_LETTERS = "23456789abcdefghjkmnpqrstuvwxyz"  # none that is read as another
_ID_LENGTH = 6


def create(
    s: Session,
    *,
    name: str,
    plan: dict[str, Any],
    machine_id: int | None,
    predicted: dict[str, Any] | None,
    actor: str,
    api_key_file: str | None = None,
) -> Deployment:
    """Ask for a new deployment. Its attempts are loaded (there are none yet)."""
    deployment = Deployment(
        id=_new_id(s),
        name=name,
        plan=plan,
        machine_id=machine_id,
        predicted=predicted,
        desired=Desired.RUNNING,
        state=State.PENDING,
        api_key_file=api_key_file,
    )
    s.add(deployment)
    s.flush()
    events.add(s, deployment.id, kind="asked", message=f"Asked to run {name}.", actor=actor)
    s.refresh(deployment, ["attempts", "last_attempt"])
    return deployment


def get(s: Session, id_or_name: str) -> Deployment:
    """One deployment with all its attempts and their stages loaded.

    id_or_name: an id, the beginning of exactly one id (with or without "d-"), or the name or the
    model source of exactly one deployment that is not final.
    """
    return _load(s, _resolve(s, id_or_name))


def find(
    s: Session,
    *,
    text: str | None = None,
    states: Iterable[State] | None = None,
    limit: int = 200,
    before: datetime | None = None,
) -> Sequence[Deployment]:
    """Deployments, newest first, each with its last attempt and that one's stages loaded.

    text: occurs in the name, the id, the note or the model's source. before: created earlier than
    this, which is how the next page is asked for.
    """
    query = select(Deployment).order_by(Deployment.created_at.desc(), Deployment.id)
    if text and text.strip():
        fields = (Deployment.name, Deployment.id, Deployment.note, _source())
        query = query.where(or_(*(f.icontains(text.strip(), autoescape=True) for f in fields)))
    if states is not None:
        query = query.where(Deployment.state.in_(list(states)))
    if before is not None:
        query = query.where(Deployment.created_at < before)
    return s.scalars(query.limit(limit).options(*_WITH_LAST_ATTEMPT)).all()


def to_reconcile(s: Session) -> Sequence[Deployment]:
    """Those that the supervisor has to look at, oldest first, with the last attempt loaded:
    wanted and not given up, or not wanted and not yet at rest."""
    wanted = and_(Deployment.desired == Desired.RUNNING, Deployment.state != State.FAILED)
    unwanted = and_(Deployment.desired == Desired.STOPPED, Deployment.state.not_in(_FINAL))
    query = select(Deployment).where(or_(wanted, unwanted)).order_by(Deployment.created_at)
    return s.scalars(query.options(*_WITH_LAST_ATTEMPT)).all()


def set_desired(s: Session, deployment_id: str, desired: Desired, actor: str) -> Deployment:
    """Ask for a deployment to run or to stop. One that was at rest starts with a clean slate."""
    deployment = get(s, deployment_id)
    if desired is Desired.RUNNING and deployment.state.is_final:
        set_state(s, deployment.id, State.PENDING, restarts=0, next_attempt_at=None, actor=actor)
    elif deployment.desired is desired:
        return deployment
    deployment.desired = desired
    verb = "run" if desired is Desired.RUNNING else "stop"
    message = f"Asked to {verb} {deployment.name}."
    events.add(s, deployment.id, kind="asked", message=message, actor=actor)
    s.flush()
    return deployment


def set_state(
    s: Session,
    deployment_id: str,
    state: State,
    message: str = "",
    *,
    endpoint: str | EllipsisType | None = ...,
    restarts: int | EllipsisType = ...,
    next_attempt_at: datetime | EllipsisType | None = ...,
    actor: str = "supervisor",
) -> None:
    """Record what was seen. Arguments left out stay as they are; a change of state is an event."""
    deployment = _row(s, deployment_id)
    previous, deployment.state = deployment.state, state
    if not isinstance(endpoint, EllipsisType):
        deployment.endpoint = endpoint
    if not isinstance(restarts, EllipsisType):
        deployment.restarts = restarts
    if not isinstance(next_attempt_at, EllipsisType):
        deployment.next_attempt_at = next_attempt_at
    if previous is not state:
        change = {"from": previous.value, "to": state.value}
        text = message or f"{previous} → {state}"
        events.add(s, deployment_id, kind="state", message=text, actor=actor, data=change)
    s.flush()


def set_note(s: Session, deployment_id: str, note: str) -> None:
    _row(s, deployment_id).note = note
    s.flush()


def rename(s: Session, deployment_id: str, name: str) -> None:
    _row(s, deployment_id).name = name
    s.flush()


def delete(s: Session, deployment_id: str) -> None:
    """Remove a deployment that is at rest, with everything that was recorded of it. Its chats
    stay. Raises StillActive for one that is not stopped or failed."""
    deployment = _row(s, deployment_id)
    if not deployment.state.is_final:
        raise StillActive(
            f"{deployment.name} ({deployment_id}) is {deployment.state}.",
            "Stop it first, then delete it.",
        )
    s.execute(sql_delete(LogLine).where(LogLine.deployment_id == deployment_id))
    s.execute(sql_delete(Deployment).where(Deployment.id == deployment_id))
    s.expire_all()


_WITH_LAST_ATTEMPT = (selectinload(Deployment.last_attempt).selectinload(Attempt.stages),)
_WITH_ATTEMPTS = (
    selectinload(Deployment.attempts).selectinload(Attempt.stages),
    *_WITH_LAST_ATTEMPT,
)


def _source() -> Any:
    return Deployment.plan["source"].as_string()


def _new_id(s: Session) -> str:
    while True:
        new_id = "d-" + "".join(secrets.choice(_ID_LETTERS) for _ in range(_ID_LENGTH))
        if s.get(Deployment, new_id) is None:
            return new_id


def _row(s: Session, deployment_id: str) -> Deployment:
    deployment = s.get(Deployment, deployment_id)
    if deployment is None:
        raise NoSuchRow(
            f"No deployment has the id {deployment_id!r}.", "`autoglm ls` lists all deployments."
        )
    return deployment


def _load(s: Session, deployment_id: str) -> Deployment:
    query = select(Deployment).where(Deployment.id == deployment_id).options(*_WITH_ATTEMPTS)
    return s.scalars(query, execution_options={"populate_existing": True}).one()


def _resolve(s: Session, id_or_name: str) -> str:
    """The id that a person meant."""
    if s.get(Deployment, id_or_name) is not None:
        return id_or_name
    starts = [Deployment.id.startswith(p + id_or_name, autoescape=True) for p in ("", "d-")]
    by_id = or_(*starts) if id_or_name.strip() else false()
    is_named = or_(Deployment.name == id_or_name, _source() == id_or_name)
    by_name = and_(is_named, Deployment.state.not_in(_FINAL))
    found = s.scalars(select(Deployment).where(or_(by_id, by_name)).limit(5)).all()
    if len(found) == 1:
        return found[0].id
    if not found:
        raise NoSuchRow(
            f"No deployment has the id {id_or_name!r}, and none of that name or model is active.",
            "`autoglm ls` lists all deployments.",
        )
    raise NoSuchRow(
        f"{id_or_name!r} could be any of {', '.join(f'{d.id} ({d.name})' for d in found)}.",
        "Write more of the id.",
    )
