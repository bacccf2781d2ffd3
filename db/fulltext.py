"""Which log lines contain a text, by full-text index where the database has one.

SQLite keeps `log_lines_fts`, an FTS5 table over the trigrams of log_lines.text that three triggers
keep in step: any run of three or more characters is found, in the middle of a word and in Chinese,
without regard to (ASCII) case. Shorter words, and databases other than SQLite, are scanned by LIKE.
"""

from __future__ import annotations

import re

from sqlalchemy import ColumnElement, Integer, column, select, table
from sqlalchemy import text as sql_text

from db.models import LogLine

INDEX_TABLE = "log_lines_fts"
_TRIGRAM = 3
_INDEX = table(INDEX_TABLE, column("rowid", Integer))


def is_index_table(name: str | None) -> bool:
    """Whether a table belongs to the full-text index: Alembic must neither drop nor compare it."""
    return name is not None and (name == INDEX_TABLE or name.startswith(f"{INDEX_TABLE}_"))


def words_of(text: str) -> list[str]:
    """The parts of what a person typed that must all occur in a line."""
    return re.sub(r"[\x00\ud800-\udfff]", " ", text).split()


def match_expression(words: list[str]) -> str:
    """An FTS5 query for lines with all `words`. In quotes nothing is an operator."""
    return " AND ".join('"' + word.replace('"', '""') + '"' for word in words)


def contains(text: str, dialect_name: str) -> list[ColumnElement[bool]]:
    """Conditions on LogLine, all of which hold for lines that contain every word of `text`."""
    words = words_of(text)
    indexed = [w for w in words if len(w) >= _TRIGRAM] if dialect_name == "sqlite" else []
    scanned = [w for w in words if w not in indexed]
    conditions = [LogLine.text.icontains(word, autoescape=True) for word in scanned]
    if indexed:
        matches = sql_text(f"{INDEX_TABLE} MATCH :fts").bindparams(fts=match_expression(indexed))
        conditions.append(LogLine.id.in_(select(_INDEX.c.rowid).where(matches)))
    return conditions
