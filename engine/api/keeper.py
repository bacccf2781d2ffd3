"""Keeps one core running for each replica: started together, and again when one ends.

A core that ends while another lives is started again after a pause that doubles each time; its
requests are meanwhile the others'. When none is left, or one is refused for a reason that starting
again would not cure, the engine is over: `failed` says why.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.api.core_link import CoreLink, Phase
from engine.api.core_process import CORE_COMMAND, CoreProcess
from engine.api.replicas import Replicas
from engine.api.shares import Share
from engine.core.messages import Fatal
from engine.errors import ConfigError, EngineError, ModelError

logger = logging.getLogger("engine.api")

_REAP_S = 0.5
"""A core whose socket has closed is a process that ends; its exit code is worth this wait."""

_END_S = 0.5
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_PROVEN_S = 60.0
"""A core that served this long has cured whatever ended the one before."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the engine is over. is_refusal: starting again will not help."""

    fatal: Fatal
    is_refusal: bool


def pause_s(num_failures: int) -> float:
    """Seconds before a core is started again, after so many failures in a row (at least 1)."""
    return min(_FIRST_PAUSE_S * 2 ** (num_failures - 1), _LONGEST_PAUSE_S)


class Keeper:
    """One task a replica. shares: what each gets of the machine."""

    def __init__(
        self,
        replicas: Replicas,
        shares: Sequence[Share],
        command: Sequence[str] = CORE_COMMAND,
        env: Mapping[str, str] | None = None,
    ) -> None:
        assert len(shares) == len(replicas.seats), f"{len(shares)} shares"
        self.became_ready = asyncio.Event()
        self.failed: asyncio.Future[Failure] = asyncio.get_running_loop().create_future()
        self._replicas = replicas
        self._shares = shares
        self._command = command
        self._env = dict(os.environ if env is None else env)
        self._cores: dict[int, CoreProcess] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start every core. Returns at once; `became_ready` and `failed` tell how it goes on."""
        for index in range(len(self._shares)):
            self._tasks.append(asyncio.create_task(self._keep(index)))

    async def end(self, grace_s: float) -> None:
        """End every core. Nothing is left when it returns."""
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(core.end(grace_s) for core in self._cores.values()))
        for error in results:
            if isinstance(error, Exception):
                raise error

    async def _keep(self, index: int) -> None:
        link, num_failures = self._replicas.links[index], 0
        while True:
            core = self._cores[index] = self._core(index, link)
            await core.start()
            served_s = await self._serve(link)
            fatal = await core.why_ended(_REAP_S)
            num_failures = 1 if served_s > _PROVEN_S else num_failures + 1
            if self._is_over(index, Failure(fatal, _is_refusal(fatal, core.exit_code))):
                return
            pause = pause_s(num_failures)
            logger.warning(
                "Replica %d ended: %s Starting it again in %g s", index, fatal.message, pause
            )
            await core.end(_END_S)
            await asyncio.sleep(pause)
            link = self._replicas.renew(index)

    def _core(self, index: int, link: CoreLink) -> CoreProcess:
        share = self._shares[index]
        return CoreProcess(link, share.argv, self._command, {**self._env, **share.env})

    async def _serve(self, link: CoreLink) -> float:
        """Wait until the core is lost; seconds that it was ready."""
        lost = asyncio.create_task(link.lost.wait())
        ready = asyncio.create_task(link.became_ready.wait())
        try:
            await asyncio.wait({lost, ready}, return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                return 0.0
            self.became_ready.set()
            ready_at = link.clock()
            await lost
            return link.clock() - ready_at
        finally:
            lost.cancel()
            ready.cancel()

    def _is_over(self, index: int, failure: Failure) -> bool:
        """Whether this end is the engine's end, or a part of it."""
        seat = self._replicas.seats[index]
        is_first_start = seat.link.ready is None and not seat.restarts
        if self._replicas.phase is Phase.STOPPING:
            return True
        is_last = self._replicas.phase is Phase.DEAD
        if not (is_last or (is_first_start and failure.is_refusal)):
            return False
        if not self.failed.done():
            self.failed.set_result(failure)
        return True


def _is_refusal(fatal: Fatal, exit_code: int | None) -> bool:
    return exit_code == 2 or fatal.code in _names_of(ConfigError, ModelError)


def _names_of(*kinds: type[EngineError]) -> set[str]:
    names = {kind.__name__ for kind in kinds}
    return names.union(*(_names_of(*kind.__subclasses__()) for kind in kinds))
