"""An answer on its way: its text so far, paced for painting, stored as it grows. Draws nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from panel.client import Delta
from panel.errors import PanelError, ServerError
from panel.ui.problems import code_of

PAINT_EVERY_S = 0.08
"""About 12 paints a second: the page sends the whole text with each, so not one a token."""

STORE_EVERY_S = 1.0

Store = Callable[[str, dict[str, Any]], None]


class Answering:
    """Collects deltas. `figures` stays {"finish_reason": "interrupted"} until the last one came."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.text = ""
        self.figures: dict[str, Any] = {"finish_reason": "interrupted"}
        self._store = store
        self._clock = clock
        self._stored_at = clock()

    def collect(self, deltas: Iterable[Delta]) -> Iterator[str]:
        """Pass the text on and keep it; store it about once a second."""
        for delta in deltas:
            if delta.figures:
                self.figures = delta.figures.to_dict()
            if not delta.text:
                continue
            self.text += delta.text
            if self._clock() - self._stored_at >= STORE_EVERY_S:
                self.store()
            yield delta.text

    def fail(self, problem: PanelError) -> None:
        """The engine refused or went away; what came until then is kept."""
        is_answer = isinstance(problem, ServerError) and (problem.status or problem.reason)
        self.figures = {
            "finish_reason": "refused" if is_answer and not self.text else "error",
            "code": code_of(problem),
            "error": problem.message,
            "fix": problem.fix,
        }

    def store(self) -> None:
        self._stored_at = self._clock()
        self._store(self.text, self.figures)


def paced(pieces: Iterable[str], *, clock: Callable[[], float]) -> Iterator[str]:
    """Join pieces that come faster than they are painted. The first is passed on at once."""
    waiting, painted_at = "", float("-inf")
    for piece in pieces:
        waiting += piece
        if clock() - painted_at >= PAINT_EVERY_S:
            yield waiting
            waiting, painted_at = "", clock()
    if waiting:
        yield waiting
