"""A model's thoughts apart from its answer: `reasoning_content` beside `content`.

Markers are data. Whether an answer begins with thoughts is seen in the prompt, where some templates
open them already, or close them at once when thinking is switched off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from engine.api.text import overlap
from engine.structured import fixed_text


@dataclass(frozen=True, slots=True)
class ReasoningFormat:
    """begin, end: the markers around thoughts."""

    name: str
    begin: str
    end: str


FORMATS: tuple[ReasoningFormat, ...] = (
    ReasoningFormat("deepseek-r1", "<think>", "</think>"),
    ReasoningFormat("qwen3", "<think>", "</think>"),
    ReasoningFormat("glm4.5", "<think>", "</think>"),
    ReasoningFormat("mistral", "[THINK]", "[/THINK]"),
    ReasoningFormat("seed-oss", "<seed:think>", "</seed:think>"),
)
NAMES = tuple(sorted(row.name for row in FORMATS))


def format_named(name: str) -> ReasoningFormat:
    return next(row for row in FORMATS if row.name == name)


def format_of(template: str) -> ReasoningFormat | None:
    """The family whose markers a chat template shows; None where it shows none."""
    return next((row for row in FORMATS if row.end in template), None)


class Start(Enum):
    """Where an answer begins: before its thoughts, if there are any; amid them; after them."""

    BEFORE = auto()
    INSIDE = auto()
    AFTER = auto()


def start_of(row: ReasoningFormat, prompt_end: str) -> Start:
    """What the last characters of the prompt tell about the answer's beginning."""
    text = prompt_end.rstrip()
    if text.endswith(row.begin):
        return Start.INSIDE
    return Start.AFTER if text.endswith(row.end) else Start.BEFORE


class ReasoningSplitter:
    """Splits one answer's text into thoughts and the rest; blanks at the markers belong to none."""

    def __init__(self, row: ReasoningFormat, start: Start) -> None:
        self._row = row
        self._state = start
        self._held = ""
        self._is_begun = False

    def push(self, text: str, *, is_last: bool = False) -> tuple[str, str]:
        """(thoughts, text) that are certain now."""
        self._held += text
        if self._state is Start.BEFORE:
            self._look_for_begin(is_last)
        thoughts = self._thoughts(is_last) if self._state is Start.INSIDE else ""
        return thoughts, self._rest() if self._state is Start.AFTER else ""

    def _look_for_begin(self, is_last: bool) -> None:
        text = self._held.lstrip()
        if text.startswith(self._row.begin):
            self._held = text[len(self._row.begin) :]
            self._state = Start.INSIDE
        elif is_last or not self._row.begin.startswith(text):
            self._is_begun = True
            self._state = Start.AFTER

    def _thoughts(self, is_last: bool) -> str:
        if not self._is_begun:
            self._held = self._held.lstrip()
            self._is_begun = bool(self._held)
        at = self._held.find(self._row.end)
        if at >= 0:
            thoughts, self._held = self._held[:at].rstrip(), self._held[at + len(self._row.end) :]
            self._state, self._is_begun = Start.AFTER, False
            return thoughts
        kept = self._held if is_last else self._held[: -overlap(self._held, self._row.end) or None]
        kept = kept.rstrip()
        self._held = self._held[len(kept) :]
        return kept

    def _rest(self) -> str:
        text, self._held = self._held, ""
        if not self._is_begun:
            text = text.lstrip()
            self._is_begun = bool(text)
        return text


def after_thoughts(
    grammar: str, row: ReasoningFormat, start: Start, special_ids: Mapping[str, int]
) -> str:
    """A grammar for the answer alone becomes one for thoughts and answer."""
    if start is Start.AFTER:
        return grammar
    begin, end = fixed_text(row.begin, special_ids), fixed_text(row.end, special_ids)
    thoughts = "/(?s:.*)/"
    if row.end in special_ids:
        rules = f"thoughts: thought_text {end} gap\nthought_text: {thoughts}"
    else:
        rules = f"thoughts: thought_text gap\nthought_text[suffix={end}]: {thoughts}"
    rules += "\ngap: /\\n{0,2}/"
    before = "thoughts" if start is Start.INSIDE else f"({begin} thoughts)?"
    return grammar.replace("start:", f"start: {before}", 1) + "\n" + rules
