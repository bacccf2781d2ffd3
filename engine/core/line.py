"""The requests that wait, in the order in which they will start.

A request's place is decided once, when it arrives: its time of arrival plus AGEING_S for each
point of its priority. Lower priorities thus go first, those of the same priority by arrival, and
waiting counts: a request at priority p is overtaken by one at p - 1 only if that arrives within
AGEING_S after it, by one at p - 2 within twice that time, and so on. Later arrivals have later
places, so nobody waits for ever, whatever others ask for.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator

from engine.core.request import Request

AGEING_S = 10.0
"""Seconds of waiting that are worth one point of priority."""

Place = tuple[float, int]


def place_of(request: Request) -> Place:
    """What requests are sorted by, running and waiting ones alike; no two have the same."""
    return (request.arrived_at + request.priority * AGEING_S, request.serial)


class Line:
    """Requests sorted by their place. One that was preempted comes back to where it stood."""

    def __init__(self, requests: Iterable[Request] = ()) -> None:
        self._requests = sorted(requests, key=place_of)

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._requests)

    @property
    def first(self) -> Request:
        return self._requests[0]

    @property
    def last(self) -> Request:
        return self._requests[-1]

    def add(self, request: Request) -> None:
        insort(self._requests, request, key=place_of)

    def remove(self, request: Request) -> None:
        index = bisect_left(self._requests, place_of(request), key=place_of)
        assert self._requests[index] is request, f"{request} is not in this line"
        del self._requests[index]
