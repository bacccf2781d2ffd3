"""The supervisor's sign of life: one row, so that a page can say when nobody is acting."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from db.models import Supervisor, utc_now

_THE_ONE = 1


def beat(s: Session, pid: int, started_at: datetime) -> None:
    """Say that the supervisor `pid` is alive now."""
    row = s.get(Supervisor, _THE_ONE)
    if row is None:
        row = Supervisor(id=_THE_ONE)
        s.add(row)
    row.pid, row.started_at, row.beat_at = pid, started_at, utc_now()
    s.flush()


def last(s: Session) -> Supervisor | None:
    """The supervisor that was heard last; `beat_at` says when."""
    return s.get(Supervisor, _THE_ONE)
