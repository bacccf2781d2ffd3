"""Tool calls out of an answer's text as it arrives. What turns out to be no call stays text.

text ─────────► content, but for what may begin a marker
begin … end ──► held back, then read: calls, or content again, to the letter
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.api.text import overlap
from engine.api.tools import Function, ToolFormat

_BARE_NAME = r"[\w.:-]+"


@dataclass(frozen=True, slots=True)
class Call:
    """arguments: a JSON object as text."""

    name: str
    arguments: str


class CallReader:
    """Splits one answer's text into content and calls."""

    def __init__(
        self, row: ToolFormat, functions: Sequence[Function], *, is_single: bool = False
    ) -> None:
        self._row = row
        self._functions = {function.name: function for function in functions}
        self._is_single = is_single
        self._begins = (row.begin,) if row.begin else _bare_begins(row, self._functions)
        self._held = ""
        self._blank = ""
        self._is_inside = False
        self._is_text_only = False
        self.num_calls = 0

    def push(self, text: str, *, is_last: bool = False) -> list[str | Call]:
        """What is certain now, in the order of the answer."""
        self._held += text
        parts: list[str | Call] = []
        while self._held:
            before = (self._held, self._is_inside, self._is_text_only)
            found = self._inside(is_last) if self._is_inside else self._outside(is_last)
            parts += found
            if before == (self._held, self._is_inside, self._is_text_only):
                break
        if is_last and self._blank and not self.num_calls:
            parts.append(self._blank)
        return parts

    def _outside(self, is_last: bool) -> list[str | Call]:
        if self._is_text_only:
            return self._give(len(self._held))
        if not self._row.begin:
            return self._at_beginning(is_last)
        at = self._held.find(self._row.begin)
        if at >= 0:
            content = self._give(at)
            self._is_inside = True
            return content
        kept = 0 if is_last else overlap(self._held, self._row.begin)
        return self._give(len(self._held) - kept)

    def _at_beginning(self, is_last: bool) -> list[str | Call]:
        """A family without markers: the answer is a call from its first word on, or none is."""
        word = self._held.lstrip()
        if any(word.startswith(begin) for begin in self._begins):
            self._is_inside = True
        elif is_last or not any(begin.startswith(word) for begin in self._begins):
            self._is_text_only = True
        return []

    def _inside(self, is_last: bool) -> list[str | Call]:
        row = self._row
        start = len(row.begin)
        at = self._held.find(row.end, start) if row.end else -1
        if at < 0 and not is_last:
            return []
        stop = len(self._held) if at < 0 else at
        calls = read_calls(row, self._held[start:stop], self._functions)
        self._is_inside = False
        if calls is None:
            self._is_text_only = not row.begin
            return self._give(stop if at < 0 else at + len(row.end))
        self._held = "" if at < 0 else self._held[at + len(row.end) :]
        self._blank = ""
        kept = [] if self._is_single and self.num_calls else calls
        kept = kept[:1] if self._is_single else kept
        self.num_calls += len(kept)
        return [*kept]

    def _give(self, count: int) -> list[str | Call]:
        """The first characters as content; blanks wait, for between two calls they are nothing."""
        text, self._held = self._blank + self._held[:count], self._held[count:]
        kept = text.rstrip()
        self._blank = text[len(kept) :]
        return [kept] if kept else []


def _bare_begins(row: ToolFormat, functions: Mapping[str, Function]) -> tuple[str, ...]:
    if row.call.startswith("{object}"):
        return ("{", "<|python_tag|>")
    return tuple(f"{name}\n" for name in functions)


def read_calls(row: ToolFormat, text: str, functions: Mapping[str, Function]) -> list[Call] | None:
    """The calls in what stood between the markers; None where it is anything else."""
    try:
        if "{object}" in row.call:
            calls = _read_objects(row, text)
        elif "{pairs}" in row.call:
            calls = [_read_pairs(row, text, functions)]
        else:
            calls = _read_named(row, text)
    except (ValueError, RecursionError):
        return None
    if not row.begin and any(call.name not in functions for call in calls):
        return None
    return calls or None


def _read_objects(row: ToolFormat, text: str) -> list[Call]:
    """JSON objects, one after the other or in a list."""
    calls: list[Call] = []
    rest = text.strip().removeprefix("<|python_tag|>")
    while rest := rest.lstrip(" \n\t\r;,"):
        value, length = _decode(rest)
        for entry in value if isinstance(value, list) else [value]:
            calls.append(_call_of(row, entry))
        rest = rest[length:]
    return calls


def _call_of(row: ToolFormat, value: Any) -> Call:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ValueError("a call has a name")
    arguments = value.get(row.arguments_key, value.get("arguments", value.get("parameters", {})))
    return Call(value["name"], _arguments_text(arguments))


def _read_named(row: ToolFormat, text: str) -> list[Call]:
    """A name, then its arguments as JSON, as often as it comes."""
    before, after = row.call.split("{arguments}")
    name = f"(?P<name>{_BARE_NAME})"
    if row.call_id:
        name += rf"(?:{re.escape(row.call_id)}\w*)?"
    opening = re.compile(_loose(before).replace(re.escape("{name}"), name))
    closing = re.compile(_loose(after))
    separators = re.compile(rf"(?:\s|{re.escape(row.begin)})*" if row.begin else r"\s*")
    calls: list[Call] = []
    at = _end(separators, text, 0)
    while at < len(text):
        opened = opening.match(text, at)
        if opened is None:
            raise ValueError("a call begins with a name")
        value, length = _decode(text[opened.end() :])
        calls.append(Call(opened["name"], _arguments_text(value)))
        at = _end(closing, text, opened.end() + length)
        at = _end(separators, text, at)
    return calls


def _loose(text: str) -> str:
    """A pattern for fixed text in which blanks may be more or fewer."""
    return r"\s*" + r"\s*".join(re.escape(word) for word in text.split()) + r"\s*"


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    if found is None:
        raise ValueError("a marker is missing")
    return found.end()


def _read_pairs(row: ToolFormat, text: str, functions: Mapping[str, Function]) -> Call:
    """A name, then arguments each between markers: texts as they are, all else as JSON."""
    before, after = row.call.split("{pairs}")
    name_end = r"(?P<name>[^\s<>]+)"
    opening = re.compile(_loose(before).replace(re.escape("{name}"), name_end))
    pair = re.compile(
        _loose(row.pair)
        .replace(re.escape("{key}"), r"(?P<key>[^<>]+)")
        .replace(r"\s*" + re.escape("{value}") + r"\s*", r"\n?(?P<value>.*?)\n?")
        .replace(re.escape("{value}"), r"(?P<value>.*?)"),
        re.DOTALL,
    )
    opened = opening.match(text)
    if opened is None:
        raise ValueError("a call begins with a name")
    function = functions.get(opened["name"])
    values: dict[str, Any] = {}
    at = opened.end()
    while found := pair.match(text, at):
        key = found["key"].strip()
        values[key] = _value(found["value"], function.type_of(key) if function else None)
        at = found.end()
    if text[at:].strip() != after.strip():
        raise ValueError("something stands after the arguments")
    return Call(opened["name"], _arguments_text(values))


def _value(text: str, kind: Any) -> Any:
    if kind == "string":
        return text
    try:
        return _loads(text)
    except ValueError:
        return text


def _arguments_text(value: Any) -> str:
    if not isinstance(value, dict):
        raise ValueError("arguments are an object")
    return json.dumps(value, ensure_ascii=False)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _decode(text: str) -> tuple[Any, int]:
    """The JSON value at the text's beginning, and its length."""
    return _DECODER.raw_decode(text)


def _loads(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse_constant)
