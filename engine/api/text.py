"""From tokens to text, piece by piece: no character is split, no stop string slips through.

Nothing here knows HTTP or a tokenizer library; `decode` is any function from token ids to text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[list[int]], str]

_REPLACEMENT = "\ufffd"
_CONTEXT_TOKENS = 6
"""Tokens decoded again before new ones: they decide about a leading space. Six one-byte tokens that
end with a character hold at least one whole character, which keeps a cut one at their beginning
apart from an unfinished one at the end."""
_MOST_DECODED = 24
"""The window is cut above this: decoding some more tokens is cheaper than decoding twice."""
_MAX_HELD = 3
"""A character of UTF-8 has 4 bytes: more unfinished ones than 3 at the end are no character."""


class Detokenizer:
    """Gives the text that each new token adds.

    A token may end in the middle of a character; its text is held back until the character is
    whole. Only a window of the last tokens is decoded, so the cost does not grow with the answer:

        … given before │ given and kept │ new tokens
                       └──────── decoded ──────────┘   minus the characters already given
    """

    def __init__(self, decode: Decode, prompt_ids: Sequence[int] = ()) -> None:
        self._decode = decode
        self._window = list(prompt_ids[-_CONTEXT_TOKENS:])
        self._given = len(decode(self._window)) if self._window else 0

    def push(self, token_ids: Sequence[int]) -> str:
        """The text that is certain now; empty while a character is unfinished."""
        if not token_ids:
            return ""
        self._window += token_ids
        text = self._decode(self._window)
        whole = _whole(text)
        piece = whole[self._given :]
        self._given = max(self._given, len(whole))
        if len(whole) == len(text) and len(self._window) > _MOST_DECODED:
            del self._window[:-_CONTEXT_TOKENS]
            self._given = len(self._decode(self._window))
        return piece


def _whole(text: str) -> str:
    """The text without an unfinished character at its end."""
    kept = text.rstrip(_REPLACEMENT)
    return kept if len(text) - len(kept) <= _MAX_HELD else text


class StopStrings:
    """Cuts a text at the first stop string, even one that arrives in several pieces."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found = False

    @property
    def exist(self) -> bool:
        return bool(self._stops)

    def push(self, piece: str) -> str:
        """The text that surely belongs to the answer. After `found` there is none any more."""
        if self.found or not self._stops:
            return "" if self.found else piece
        text = self._held + piece
        at = min((i for stop in self._stops if (i := text.find(stop)) >= 0), default=None)
        if at is not None:
            self.found, self._held = True, ""
            return text[:at]
        held = max(overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """At the end of the answer: what looked like the beginning of a stop string."""
        held, self._held = self._held, ""
        return held


def overlap(text: str, stop: str) -> int:
    """Characters at the end of the text that begin the stop string."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
