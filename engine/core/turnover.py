"""How fast requests end, which tells a refused client when to come back."""

from __future__ import annotations

import math
from collections import deque

WINDOW_S = 30.0
"""What counts as recent."""
LONGEST_S = 60
"""Clients take a longer Retry-After for a mistake and come back much earlier (openai's does)."""


class Turnover:
    """Remembers when requests ended. All times are seconds on the caller's clock."""

    def __init__(self) -> None:
        self._busy_since = 0.0
        self._ended: deque[float] = deque()

    def begin(self, now: float) -> None:
        """The engine was idle and has work again: what came before tells nothing of now."""
        self._busy_since = now
        self._ended.clear()

    def end(self, now: float) -> None:
        """One request ended."""
        self._ended.append(now)
        self._forget_old(now)

    def retry_after_s(self, num_ahead: int, now: float) -> int:
        """Whole seconds in which `num_ahead` requests will have ended, if it goes on as it does.

        Where none has ended yet, the next one is taken to need as long as passed until now.
        """
        self._forget_old(now)
        elapsed_s = min(WINDOW_S, now - self._busy_since)
        needed_s = num_ahead * elapsed_s / max(1, len(self._ended))
        return max(1, min(LONGEST_S, math.ceil(needed_s)))

    def _forget_old(self, now: float) -> None:
        while self._ended and self._ended[0] <= now - WINDOW_S:
            self._ended.popleft()
