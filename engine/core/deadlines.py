"""Which requests have run out of time."""

from __future__ import annotations

import heapq

from engine.core.request import Request


class Deadlines:
    """The earliest first. Requests that ended otherwise stay inside until their time comes."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Request]] = []

    def add(self, request: Request) -> None:
        """Watch a request, if it has a deadline."""
        if request.deadline is not None:
            heapq.heappush(self._heap, (request.deadline, request.serial, request))

    def passed(self, now: float) -> list[Request]:
        """Take out those whose deadline is not after `now`."""
        passed: list[Request] = []
        while self._heap and self._heap[0][0] <= now:
            passed.append(heapq.heappop(self._heap)[2])
        return passed
