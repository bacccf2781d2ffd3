"""All replicas as one: a request goes to one of them, and hears nothing of it if that one dies.

    submit ──► router: which of those that are ready ──► its CoreLink
    a core dies ──► its requests without a token yet go to another; the others get an error

Every replica has a seat: the link to the core that serves now, and what became of those before.
Who starts the processes is `keeper`'s business; here is only what the routes see.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from engine.api.core_link import CoreLink, Mailbox, OpenRequest, Phase
from engine.api.errors import ApiError, engine_unavailable
from engine.api.router import Router, Routing
from engine.config import EngineConfig
from engine.core.messages import Fatal, Loading, Ready, Stats, Submit

_GAUGES = ("running", "waiting", "blocks_used", "blocks_total")
"""What ends with a core; all other figures of `Stats` are counters, which go on."""

_ADD_UP = ("weight_bytes", "kv_bytes", "kv_tokens", "peak_bytes")


@dataclass(slots=True)
class Seat:
    """past: the counters of the cores that ended."""

    link: CoreLink
    restarts: int = 0
    past: Stats | None = None

    @property
    def stats(self) -> Stats | None:
        """The gauges of the core that serves now, the counters of all."""
        parts = [stats for stats in (self.past, self.link.stats) if stats]
        return add_up(parts) if parts else None


def add_up(parts: Iterable[Stats]) -> Stats:
    """Field by field."""
    rows = [[getattr(part, field.name) for field in fields(Stats)] for part in parts]
    return Stats(*(sum(column) for column in zip(*rows, strict=True)))


class Replicas:
    """Looks to the routes like one core. links: one for each replica."""

    def __init__(
        self,
        links: Sequence[CoreLink],
        router: Router | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._router = router or Router(Routing.ROUND_ROBIN, 64)
        self._clock = clock
        self.seats = [Seat(link) for link in links]
        for link in links:
            link.take_over = self._take_over

    @classmethod
    def of(cls, config: EngineConfig) -> Replicas:
        links = [CoreLink() for _ in range(config.replicas)]
        return cls(links, Router(Routing(config.routing), config.block_size))

    @property
    def links(self) -> list[CoreLink]:
        return [seat.link for seat in self.seats]

    # --- requests ------------------------------------------------------------------------------

    def submit(self, submit: Submit, mailbox: Mailbox, choice: int) -> None:
        """Send a request to a replica; its outputs come to `mailbox` under `choice`.

        Raises ApiError (503) unless one is ready.
        """
        loads = {
            index: link.num_open
            for index, link in enumerate(self.links)
            if link.phase is Phase.READY
        }
        if not loads:
            raise engine_unavailable(self.phase, self.why())
        index = next(iter(loads))
        if len(self.seats) > 1:
            index = self._router.choose(loads, submit.prompt_ids)
        self.links[index].submit(submit, mailbox, choice)

    def abort(self, request_id: str) -> None:
        """End a request whose answer nobody wants any more. Harmless when it has ended."""
        for link in self.links:
            link.abort(request_id)

    def _take_over(self, request: OpenRequest) -> bool:
        """Let another replica answer a request whose core died before its first token."""
        if request.submit is None:
            return False
        try:
            self.submit(request.submit, request.mailbox, request.choice)
        except ApiError:
            return False
        return True

    @property
    def num_open(self) -> int:
        return sum(link.num_open for link in self.links)

    # --- life ----------------------------------------------------------------------------------

    def renew(self, index: int) -> CoreLink:
        """A link for the core that takes the place of one that ended."""
        seat = self.seats[index]
        stats = seat.stats
        seat.past = replace(stats, **dict.fromkeys(_GAUGES, 0)) if stats else None
        seat.restarts += 1
        seat.link = CoreLink(seat.link.clock)
        seat.link.take_over = self._take_over
        self._router.forget(index)
        return seat.link

    def give_up(self, link: CoreLink, fatal: Fatal) -> None:
        """Treat a core as dead, whatever its process does."""
        link.fatal = fatal
        link.lose()

    def stop(self) -> None:
        """Admit nothing more; what runs goes on."""
        for link in self.links:
            link.stop()

    def fail_open(self, detail: str) -> None:
        """End every open request with an error that says why."""
        for link in self.links:
            link.fail_open(detail)

    # --- what they tell ------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """Ready as soon and as long as one replica is."""
        phases = {link.phase for link in self.links}
        for phase in (Phase.STOPPING, Phase.READY, Phase.STARTING):
            if phase in phases:
                return phase
        return Phase.DEAD

    @property
    def loading(self) -> Loading:
        """Of the replica that is furthest."""
        return max((link.loading for link in self._in_phase()), key=_how_far)

    @property
    def ready(self) -> Ready | None:
        """Of all that are ready: sizes added up, the longest times, the shortest length."""
        told = [link.ready for link in self.links if link.ready]
        if len(told) < 2:
            return told[0] if told else None
        changes: dict[str, Any] = {name: sum(getattr(r, name) for r in told) for name in _ADD_UP}
        changes |= {name: max(getattr(r, name) for r in told) for name in ("load_s", "warm_up_s")}
        return replace(told[0], max_seq_length=min(r.max_seq_length for r in told), **changes)

    @property
    def stats(self) -> Stats | None:
        parts = [stats for seat in self.seats if (stats := seat.stats)]
        return add_up(parts) if parts else None

    def why(self) -> str:
        """Why requests are refused in this phase."""
        links = self._in_phase()
        return next((link.why() for link in links if link.fatal), links[0].why())

    def _in_phase(self) -> list[CoreLink]:
        phase = self.phase
        return [link for link in self.links if link.phase is phase]


def _how_far(loading: Loading) -> tuple[bool, bool, float]:
    return loading.stage != "start", loading.stage == "warm_up", loading.progress
