"""/health: is the engine starting, well, stalled, stopping or dead?

"ok" means that tokens advance. Where `--enable-health-check` is on and no step was made for a
while, one real token is computed; everyone who asks meanwhile waits for the same one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from engine.api.core_link import CoreLink, Mailbox, Phase
from engine.api.errors import ApiError
from engine.api.state import EngineState
from engine.core.messages import SamplingParams, Submit

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
        self._checking: asyncio.Task[bool] | None = None

    async def report(self) -> tuple[int, Mapping[str, Any]]:
        """Status code and body."""
        state, link = self._state, self._state.link
        is_stalled = self._must_check() and not await self._computes_a_token()
        if is_stalled and state.phase is Phase.READY:
            return 503, {"status": "stalled", "detail": self._stalled_detail()}
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

    def _must_check(self) -> bool:
        if self._state.phase is not Phase.READY or not self._state.config.enable_health_check:
            return False
        last = self._state.link.last_step_at
        return last is None or self._state.link.clock() - last > self._fresh_s

    async def _computes_a_token(self) -> bool:
        """Share one check between all who ask; it goes on when one of them leaves."""
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(_make_token(self._state.link, self._deadline_s))
        return await asyncio.shield(self._checking)

    def _stalled_detail(self) -> str:
        link = self._state.link
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
