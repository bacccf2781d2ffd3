"""Log lines: appended in batches, bounded for each deployment, searched inside the database.

How far a log file has been read is stored in the transaction that stores its lines. Whoever is
killed at any moment, the next reader goes on at exactly the right byte.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, CursorResult, and_, delete, func, insert, select, update
from sqlalchemy.orm import Session

from db import fulltext
from db.models import Attempt, LogLine

LONGEST_TEXT = 16_384  # characters; the rest of a longer line stays in the file only
TRIMMED_AT_ONCE = 5_000  # lines; bounds the time that one append holds the lock
_CHUNK = 2_000


@dataclass(frozen=True)
class NewLine:
    """One line that a program printed. level: "debug", "info", "warning", "error"."""

    at: datetime
    level: str
    source: str
    text: str


def append(
    s: Session,
    deployment_id: str,
    attempt_id: int | None,
    lines: Sequence[NewLine],
    *,
    offset: int | None = None,
    keep: int,
) -> None:
    """Store lines, and with them the attempt's `log_offset`; drop the oldest beyond `keep`."""
    if lines:
        owner = {"deployment_id": deployment_id, "attempt_id": attempt_id}
        s.execute(insert(LogLine), [owner | _columns(line) for line in lines])
    if offset is not None:
        assert attempt_id is not None, "an offset belongs to an attempt's log file"
        s.execute(update(Attempt).where(Attempt.id == attempt_id).values(log_offset=offset))
    if lines:
        _trim(s, deployment_id, keep, at_most=max(TRIMMED_AT_ONCE, 2 * len(lines)))


def tail(
    s: Session,
    deployment_id: str,
    *,
    limit: int = 300,
    attempt_id: int | None = None,
    level: str | None = None,
    after_id: int | None = None,
    source: str | None = None,
) -> Sequence[LogLine]:
    """The newest lines, oldest of them first. after_id: only those added since that line."""
    query = select(LogLine).where(LogLine.deployment_id == deployment_id)
    if attempt_id is not None:
        query = query.where(LogLine.attempt_id == attempt_id)
    if level is not None:
        query = query.where(LogLine.level == level)
    if source is not None:
        query = query.where(LogLine.source == source)
    if after_id is not None:
        query = query.where(LogLine.id > after_id)
    return s.scalars(query.order_by(LogLine.id.desc()).limit(limit)).all()[::-1]


def search(
    s: Session,
    text: str,
    *,
    deployment_id: str | None = None,
    level: str | None = None,
    limit: int = 300,
    before_id: int | None = None,
) -> Sequence[LogLine]:
    """The newest lines that contain every word of `text` (any text), newest first.

    before_id: only older ones than that line, which is how the next page is asked for. A text
    without words finds nothing.
    """
    words = fulltext.words_of(text)
    if not words:
        return []
    query, line_id = fulltext.lines_with(words, s.get_bind().dialect.name)
    if deployment_id is not None:
        query = query.where(LogLine.deployment_id == deployment_id)
    if level is not None:
        query = query.where(LogLine.level == level)
    if before_id is not None:
        query = query.where(line_id < before_id)
    return s.scalars(query.order_by(line_id.desc()).limit(limit)).all()


def count(s: Session, deployment_id: str, level: str | None = None) -> int:
    query = select(func.count()).where(LogLine.deployment_id == deployment_id)
    if level is not None:
        query = query.where(LogLine.level == level)
    return s.scalar(query) or 0


def chunk(
    s: Session, deployment_id: str, *, after_id: int = 0, limit: int = _CHUNK
) -> Sequence[LogLine]:
    """The oldest lines after `after_id`, oldest first: all lines, in one session after another."""
    query = select(LogLine).where(LogLine.deployment_id == deployment_id, LogLine.id > after_id)
    return s.scalars(query.order_by(LogLine.id).limit(limit)).all()


def discard(s: Session, deployment_id: str) -> bool:
    """Remove up to TRIMMED_AT_ONCE lines; True while there may be more.

    Called in one short transaction after another before a deployment is deleted: to remove 200,000
    lines at once would keep all others from writing for seconds.
    """
    removed = _drop_oldest(s, LogLine.deployment_id == deployment_id, TRIMMED_AT_ONCE)
    return removed == TRIMMED_AT_ONCE


def _columns(line: NewLine) -> dict[str, object]:
    return {
        "at": line.at,
        "level": line.level,
        "source": line.source,
        "text": _storable(line.text),
    }


def _storable(text: str) -> str:
    """The text without what a database refuses (NUL, lone surrogates), and of bounded length."""
    if len(text) > LONGEST_TEXT:
        text = f"{text[:LONGEST_TEXT]} … ({len(text) - LONGEST_TEXT} more characters)"
    return re.sub(r"[\x00\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", text)


def _trim(s: Session, deployment_id: str, keep: int, at_most: int) -> None:
    mine = LogLine.deployment_id == deployment_id
    lowest = select(func.min(LogLine.id)).where(mine).scalar_subquery()
    highest = select(func.max(LogLine.id)).where(mine).scalar_subquery()
    if (s.scalar(select(highest - lowest + 1)) or 0) <= keep:
        return  # two look-ups in an index; counting 200,000 lines would take longer
    newest_to_drop = s.scalar(
        select(LogLine.id).where(mine).order_by(LogLine.id.desc()).offset(keep).limit(1)
    )
    if newest_to_drop is None:
        return
    _drop_oldest(s, and_(mine, LogLine.id <= newest_to_drop), at_most)


def _drop_oldest(s: Session, which: ColumnElement[bool], at_most: int) -> int:
    oldest = select(LogLine.id).where(which).order_by(LogLine.id).limit(at_most)
    result = s.execute(
        delete(LogLine).where(LogLine.id.in_(oldest)),
        execution_options={"synchronize_session": False},
    )
    assert isinstance(result, CursorResult)
    return result.rowcount
