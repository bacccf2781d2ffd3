"""Which log lines contain a text, by full-text index where the database has one.

SQLite keeps `log_lines_fts`, an FTS5 table over the trigrams of log_lines.text that three triggers
keep in step: any run of three or more characters is found, in the middle of a word and in Chinese,
without regard to (ASCII) case. Shorter words, and databases other than SQLite, are scanned by LIKE.
"""

from __future__ import annotations

import re

from sqlalchemy import ColumnElement, Integer, Select, String, column, select, table

from db.models import LogLine

INDEX_TABLE = "log_lines_fts"
_TRIGRAM = 3
_INDEX = table(INDEX_TABLE, column("rowid", Integer), column(INDEX_TABLE, String))


def is_index_table(name: str | None) -> bool:
    """Whether a table belongs to the full-text index: Alembic must neither drop nor compare it."""
    return name is not None and (name == INDEX_TABLE or name.startswith(f"{INDEX_TABLE}_"))


def words_of(text: str) -> list[str]:
    """The parts of what a person typed that must all occur in a line."""
    return re.sub(r"[\x00\ud800-\udfff]", " ", text).split()


def match_expression(words: list[str]) -> str:
    """An FTS5 query for lines with all `words`. In quotes nothing is an operator."""
    return " AND ".join('"' + word.replace('"', '""') + '"' for word in words)


def lines_with(words: list[str], dialect_name: str) -> tuple[Select[LogLine], ColumnElement[int]]:
    """A query for lines that contain all `words`, and the column to page and sort it by.

    Sorted by the index's own row id, SQLite reads matches newest first and stops at the limit;
    sorted by LogLine.id it would collect all of them before the first is shown.
    """
    indexed = [w for w in words if len(w) >= _TRIGRAM] if dialect_name == "sqlite" else []
    scanned = [LogLine.text.icontains(w, autoescape=True) for w in words if w not in indexed]
    query = select(LogLine).where(*scanned)
    if not indexed:
        return query, LogLine.id.expression
    matches = _INDEX.c[INDEX_TABLE].match(match_expression(indexed))
    return query.join(_INDEX, _INDEX.c.rowid == LogLine.id).where(matches), _INDEX.c.rowid
