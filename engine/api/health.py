"""/health: is the engine starting, well, stalled, stopping or dead?

"ok" means that tokens advance, of one replica at least. Where `--enable-health-check` is on and no
step was made for a while, one real token is computed; everyone who asks meanwhile waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any
from weakref import WeakKeyDictionary

from engine.api.core_link import CoreLink, Mailbox, Phase
from engine.api.errors import ApiError
from engine.api.replicas import Seat
from engine.api.state import EngineState
from engine.core.messages import Fatal, SamplingParams, Submit

FRESH_S = 5.0
"""A step this young is proof enough."""
DEADLINE_S = 10.0

_REQUEST_ID = "health-check"


class Health:
    """Answers /health for one engine."""

    def __init__(
        self, state: EngineState, *, fresh_s: float = FRESH_S, deadline_s: float = DEADLINE_S
    ) -> None:
        self._state = state
        self._fresh_s = fresh_s
        self._deadline_s = deadline_s
        self._checks: WeakKeyDictionary[CoreLink, asyncio.Task[bool]] = WeakKeyDictionary()

    async def report(self) -> tuple[int, Mapping[str, Any]]:
        """Status code and body."""
        state, link = self._state, self._state.link
        if state.phase is Phase.READY and (detail := await self._find_stalled()):
            return 503, {"status": "stalled", "detail": detail}
        match state.phase:
            case Phase.READY:
                return 200, self._figures()
            case Phase.STARTING:
                loading = state.loading
                return 503, {"status": "starting", **asdict(loading)}
            case Phase.STOPPING:
                detail = f"{link.num_open} requests are being finished"
                return 503, {"status": "stopping", "detail": detail}
            case Phase.DEAD:
                return 503, {"status": "dead", "detail": link.why()}

    async def _find_stalled(self) -> str | None:
        """Why no replica computes; None if at least one does. Those that do not beside one that
        does are given up, so that they are started again."""
        ready = [link for link in self._state.link.links if link.phase is Phase.READY]
        works = await asyncio.gather(*(self._works(link) for link in ready))
        stalled = [
            link
            for link, works_well in zip(ready, works, strict=True)
            if not works_well and link.phase is Phase.READY
        ]
        if stalled and len(stalled) == len(ready):
            return self._stalled_detail(stalled[0])
        for link in stalled:
            detail = self._stalled_detail(link)
            self._state.link.give_up(link, Fatal("EngineUnavailable", detail, ""))
        return None

    async def _works(self, link: CoreLink) -> bool:
        """Whether a step was made lately or, if asked to compute one, a token comes in time.

        All who ask share one check; it goes on when one of them leaves."""
        is_fresh = (
            link.last_step_at is not None and link.clock() - link.last_step_at <= self._fresh_s
        )
        if is_fresh or not self._state.config.enable_health_check:
            return True
        check = self._checks.get(link)
        if check is None or check.done():
            check = asyncio.create_task(_make_token(link, self._deadline_s))
            self._checks[link] = check
        return await asyncio.shield(check)

    def _stalled_detail(self, link: CoreLink) -> str:
        waited = f"No step in {self._deadline_s:g} s"
        if link.last_step_at is None:
            return f"{waited}, and none before."
        return f"{waited}; the last one was {link.clock() - link.last_step_at:.0f} s ago."

    def _figures(self) -> dict[str, Any]:
        state, ready, stats = self._state, self._state.link.ready, self._state.link.stats
        assert ready is not None
        return {
            "status": "ok",
            "model": state.config.model_name,
            "uptime_s": round(state.uptime_s, 3),
            "generated_tokens": stats.generated_tokens if stats else 0,
            "running": stats.running if stats else 0,
            "waiting": stats.waiting if stats else 0,
            "memory": {
                "weight_bytes": ready.weight_bytes,
                "kv_bytes": ready.kv_bytes,
                "kv_tokens": ready.kv_tokens,
                "peak_bytes": ready.peak_bytes,
            },
            "load_s": ready.load_s,
            "warm_up_s": ready.warm_up_s,
            "device": ready.device,
            "dtype": ready.dtype,
            "attention": ready.attention,
            "model_type": ready.model_type,
            "max_seq_length": ready.max_seq_length,
            "replicas": [_replica(seat) for seat in state.link.seats],
        }


def _replica(seat: Seat) -> dict[str, Any]:
    link, stats = seat.link, seat.stats
    return {
        "status": link.phase.value,
        "detail": "" if link.phase is Phase.READY else link.why(),
        "device": link.ready.device if link.ready else None,
        "restarts": seat.restarts,
        "open": link.num_open,
        "running": stats.running if stats else 0,
        "waiting": stats.waiting if stats else 0,
        "generated_tokens": stats.generated_tokens if stats else 0,
    }


async def _make_token(link: CoreLink, deadline_s: float) -> bool:
    """Whether the core makes a step within the deadline, with one greedy token to compute.

    Any step counts: in a full batch the token waits its turn while the others advance.
    """
    link.stepped.clear()
    params = SamplingParams(max_new_tokens=1, temperature=0.0)
    try:
        link.submit(Submit(_REQUEST_ID, [0], params), Mailbox(), 0)
        await asyncio.wait_for(link.stepped.wait(), deadline_s)
    except (TimeoutError, ApiError):
        return False
    finally:
        link.abort(_REQUEST_ID)
    return True
