"""The machines that were seen: one row for each combination of hardware and driver."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.errors import NoSuchRow
from db.models import Machine, utc_now


def remember(s: Session, *, fingerprint: str, hostname: str, facts: dict[str, Any]) -> Machine:
    """Note that the machine was seen now, with its newest facts."""
    machine = s.scalar(select(Machine).where(Machine.fingerprint == fingerprint))
    if machine is None:
        machine = Machine(fingerprint=fingerprint, hostname=hostname, facts=facts)
        s.add(machine)
    machine.hostname, machine.facts, machine.last_seen_at = hostname, facts, utc_now()
    s.flush()
    return machine


def newest(s: Session) -> Machine | None:
    """The machine that was seen last."""
    return s.scalar(select(Machine).order_by(Machine.last_seen_at.desc(), Machine.id.desc()))


def get(s: Session, machine_id: int) -> Machine:
    machine = s.get(Machine, machine_id)
    if machine is None:
        raise NoSuchRow(f"No machine has the id {machine_id}.")
    return machine
