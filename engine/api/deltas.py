"""The parts of an answer as OpenAI's deltas, and a whole message made of the same deltas."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from engine.api.calls import Call
from engine.api.generation import Piece
from engine.api.reader import AnswerReader, Thought

_CALL_ID_CHARS = 9
"""Mistral's templates take call ids of nine letters and digits only."""


class Deltas:
    """Those of one choice."""

    def __init__(self, reader: AnswerReader) -> None:
        self._reader = reader
        self._num_calls = 0

    def push(self, piece: Piece) -> list[dict[str, Any]]:
        deltas: list[dict[str, Any]] = []
        for part in self._reader.push(piece.text, is_last=piece.finish_reason is not None):
            match part:
                case Thought():
                    deltas.append({"reasoning_content": part.text})
                case Call():
                    deltas += self._of_call(part)
                case _:
                    deltas.append({"content": part})
        return deltas

    def _of_call(self, call: Call) -> list[dict[str, Any]]:
        """Its name first, then its arguments."""
        index = self._num_calls
        self._num_calls += 1
        head = {
            "index": index,
            "id": uuid.uuid4().hex[:_CALL_ID_CHARS],
            "type": "function",
            "function": {"name": call.name, "arguments": ""},
        }
        rest = {"index": index, "function": {"arguments": call.arguments}}
        return [{"tool_calls": [head]}, {"tool_calls": [rest]}]

    def reason(self, reason: str | None) -> str | None:
        """Why the answer ended, after its last piece."""
        return "tool_calls" if reason == "stop" and self._num_calls else reason


def whole_message(deltas: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The message that a client would put together of these deltas."""
    texts = {name: "".join(d.get(name, "") for d in deltas) for name in ("content", _THOUGHTS)}
    calls: list[dict[str, Any]] = []
    for part in (part for delta in deltas for part in delta.get("tool_calls", ())):
        if part["index"] == len(calls):
            calls.append({"id": part["id"], "type": "function", "function": {**part["function"]}})
        else:
            calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]
    message: dict[str, Any] = {
        "content": texts["content"] if texts["content"] or not calls else None
    }
    if texts[_THOUGHTS]:
        message[_THOUGHTS] = texts[_THOUGHTS]
    if calls:
        message["tool_calls"] = calls
    return message


_THOUGHTS = "reasoning_content"
