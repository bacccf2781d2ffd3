"""An engine's log file becomes rows: whole lines only, each with its time and level.

The offset is stored in the same transaction as the lines, so a supervisor killed between two looks
loses no line and stores none twice. A line without a time (a traceback's) belongs to the one above.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from db.log_lines import NewLine

READ_BYTES = 2**20
"""Most bytes taken in one look, which is also the longest line."""

_HEAD = re.compile(
    r"(?P<at>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?)Z "
    r"(?P<level>DEBUG|INFO|WARNING|ERROR) (?P<text>.*)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Head:
    """Time and level that the lines below inherit."""

    at: datetime
    level: str = "info"


@dataclass(frozen=True)
class Tail:
    """What one read gave. offset: the bytes of the file that are now in lines."""

    lines: list[NewLine]
    offset: int
    head: Head
    is_end: bool


def read(path: Path, offset: int, head: Head, *, source: str, is_final: bool = False) -> Tail:
    """Read on from `offset`, at most READ_BYTES.

    is_final: the writer is gone, so a last line without a line break is a line too.
    A file that is not there (yet, or any more) has no lines.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(READ_BYTES)
    except FileNotFoundError:
        return Tail([], offset, head, is_end=True)
    is_end = len(data) < READ_BYTES
    whole = whole_lines(data, is_final=is_final and is_end)
    lines, head = parse(split(whole), head, source)
    return Tail(lines, offset + len(whole), head, is_end)


def whole_lines(data: bytes, *, is_final: bool) -> bytes:
    """The part of `data` that ends with a line break; all of it if no more will come or fit."""
    end = data.rfind(b"\n") + 1
    if is_final or (end == 0 and len(data) >= READ_BYTES):
        return data
    return data[:end]


def split(data: bytes) -> list[str]:
    """Lines of text. What is not UTF-8 is replaced; a progress line keeps its last state only."""
    lines = data.decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}").split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.rstrip("\r").rpartition("\r")[2] for line in lines]


def parse(texts: Iterable[str], head: Head, source: str) -> tuple[list[NewLine], Head]:
    """Give each line its time and level: its own, or those of the line above it."""
    lines: list[NewLine] = []
    for text in texts:
        if match := _HEAD.fullmatch(text):
            at = datetime.fromisoformat(match["at"]).replace(tzinfo=UTC)
            head = Head(at, match["level"].lower())
            text = match["text"]
        if text:
            lines.append(NewLine(head.at, head.level, source, text))
    return lines, head
