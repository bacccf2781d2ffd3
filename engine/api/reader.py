"""One answer's text, taken apart as it arrives: thoughts, content, tool calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.api.calls import Call, CallReader
from engine.api.reasoning import ReasoningFormat, ReasoningSplitter, Start
from engine.api.tools import Function, ToolFormat


@dataclass(frozen=True, slots=True)
class Thought:
    text: str


Part = str | Thought | Call


class AnswerReader:
    """Thoughts are split off first, so what a model only thinks of calling is no call."""

    def __init__(
        self,
        reasoning: ReasoningFormat | None,
        start: Start,
        tools: ToolFormat | None,
        functions: Sequence[Function],
        *,
        is_single: bool,
    ) -> None:
        self._splitter = ReasoningSplitter(reasoning, start) if reasoning else None
        self._calls = CallReader(tools, functions, is_single=is_single) if tools else None

    @property
    def num_calls(self) -> int:
        return self._calls.num_calls if self._calls else 0

    def push(self, text: str, *, is_last: bool) -> list[Part]:
        """What is certain now, in the order of the answer."""
        parts: list[Part] = []
        if self._splitter:
            thoughts, text = self._splitter.push(text, is_last=is_last)
            if thoughts:
                parts.append(Thought(thoughts))
        if self._calls:
            parts += self._calls.push(text, is_last=is_last)
        elif text:
            parts.append(text)
        return parts
