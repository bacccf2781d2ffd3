"""Which replica answers the next request: three pure choices, and the little that they remember.

    round_robin    each in turn
    least_loaded   the one with fewest open requests; each in turn among equals
    prefix_aware   the one that has seen most of the prompt's beginning, so that its prefix cache
                   holds it, unless that one is much busier than the least loaded

Beginnings are compared by the same block names that the core's prefix cache uses. What a replica
has seen is remembered here, not asked for: a name that its cache has dropped costs one prompt.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from enum import StrEnum

from engine.core.prefix import PrefixChain

MAX_NAMED_BLOCKS = 32
"""Of a prompt; 2,048 tokens tell one conversation from another, and cost about 50 µs."""

MAX_REMEMBERED = 65_536
"""Names, the oldest forgotten first; about 10 MiB."""

MAX_IMBALANCE = 4
"""Open requests that a replica may have above the least loaded one and still be preferred."""


class Routing(StrEnum):
    ROUND_ROBIN = "round_robin"
    LEAST_LOADED = "least_loaded"
    PREFIX_AWARE = "prefix_aware"


def round_robin(candidates: Sequence[int], last: int) -> int:
    """The candidate after `last`, in the order of their numbers."""
    return min(candidates, key=lambda index: (index <= last, index))


def least_loaded(loads: Mapping[int, int], last: int) -> int:
    """loads: open requests by replica."""
    least = min(loads.values())
    return round_robin([index for index, load in loads.items() if load == least], last)


def prefix_aware(loads: Mapping[int, int], seen: Mapping[int, int], last: int) -> int:
    """seen: how many of the prompt's first blocks each replica has had."""
    limit = min(loads.values()) + MAX_IMBALANCE
    most = max(seen.values(), default=0)
    known = {index: loads[index] for index, count in seen.items() if count == most}
    near = {index: load for index, load in known.items() if load <= limit}
    return least_loaded(near if most and near else loads, last)


class Router:
    """Remembers whose turn it was and what each replica has seen, and asks the functions above.

    block_size: tokens in one KV block, as in the core.
    """

    def __init__(self, routing: Routing, block_size: int) -> None:
        self._routing = routing
        self._block_size = block_size
        self._last = -1
        self._seen_by: OrderedDict[bytes, set[int]] = OrderedDict()

    def choose(self, loads: Mapping[int, int], prompt_ids: Sequence[int]) -> int:
        """One of the replicas in `loads`, which are those that can take a request."""
        assert loads, "no replica to choose from"
        if self._routing is Routing.ROUND_ROBIN:
            self._last = round_robin(list(loads), self._last)
        elif self._routing is Routing.LEAST_LOADED or len(loads) == 1:
            self._last = least_loaded(loads, self._last)
        else:
            names = self._names(prompt_ids)
            seen = {index: self._num_seen(names, index) for index in loads}
            self._last = prefix_aware(loads, seen, self._last)
            self._remember(names, self._last)
        return self._last

    def forget(self, index: int) -> None:
        """The replica starts anew, with an empty cache."""
        for owners in self._seen_by.values():
            owners.discard(index)

    def _names(self, prompt_ids: Sequence[int]) -> list[bytes]:
        num_blocks = min(len(prompt_ids) // self._block_size, MAX_NAMED_BLOCKS)
        tokens = array("i", prompt_ids[: num_blocks * self._block_size])
        return PrefixChain(self._block_size).upto(tokens, num_blocks)

    def _num_seen(self, names: Sequence[bytes], index: int) -> int:
        for count, name in enumerate(names):
            if index not in self._seen_by.get(name, ()):
                return count
        return len(names)

    def _remember(self, names: Sequence[bytes], index: int) -> None:
        for name in names:
            self._seen_by.setdefault(name, set()).add(index)
            self._seen_by.move_to_end(name)
        while len(self._seen_by) > MAX_REMEMBERED:
            self._seen_by.popitem(last=False)
