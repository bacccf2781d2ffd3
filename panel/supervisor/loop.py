"""The loop: load the rows, look, decide, act, write down; for every deployment, over and over.

One deployment's trouble never stops the others: whatever goes wrong with one is caught here, and
only here, and written down with its traceback. No database session is open during a network call.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

from db import deployments, events, supervisors
from db.errors import DatabaseError, NoSuchRow
from db.models import Attempt, Deployment, State, utc_now
from db.session import Database
from panel.runtimes import engine
from panel.settings import Settings
from panel.supervisor.act import Actor
from panel.supervisor.actions import Rest
from panel.supervisor.ending import Ender
from panel.supervisor.lifecycle import Policy, next_action
from panel.supervisor.observe import Observer
from panel.supervisor.probe import ask_health
from panel.supervisor.starting import MakeCommand, Starter
from panel.supervisor.watch import Watch, process_of

STEPS_PER_LOOK = 8
"""So many steps may follow each other at once before the next deployment has its turn."""

CHECK_READY_EVERY_S = 1.5
"""A ready engine is asked this often; one that starts or does not answer, at every look."""

PROBES_AT_ONCE = 8

log = logging.getLogger("panel.supervisor")


class Supervisor:
    """Brings what is toward what is desired. One instance lives in a home folder at a time."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        *,
        policy: Policy | None = None,
        command: MakeCommand = engine.command,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._settings = settings
        self._database = database
        self._policy = policy or Policy()
        self._clock = clock
        self._observer = Observer(database, settings.log_lines_kept)
        self._actor = Actor(
            database,
            Starter(settings, database, self._policy, command),
            Ender(database, self._observer),
        )
        self._watches: dict[str, Watch] = {}
        self._troubles: dict[str, str] = {}
        self._probes = ThreadPoolExecutor(PROBES_AT_ONCE, thread_name_prefix="probe")
        self._started_at = clock()

    def run(self, stop: threading.Event) -> None:
        """Look again and again until `stop` is set. Engines go on running afterwards."""
        log.info("Supervisor %d watches %s", os.getpid(), self._database.place)
        try:
            while not stop.is_set():
                began = time.monotonic()
                self.look()
                stop.wait(max(0.0, self._settings.interval_s - (time.monotonic() - began)))
        finally:
            self.close()
        log.info("Supervisor %d ends; engines go on", os.getpid())

    def close(self) -> None:
        """Give up work under way; the next supervisor begins it again."""
        self._probes.shutdown(cancel_futures=True)
        for watch in self._watches.values():
            if watch.job is not None:
                watch.job.cancel()

    def look(self) -> None:
        """One round over all deployments. Never raises for what one of them does."""
        try:
            with self._database.begin() as session:
                supervisors.beat(session, os.getpid(), self._started_at)
            with self._database.read() as session:
                found = deployments.to_reconcile(session)
        except DatabaseError as error:
            self._remember_trouble("", error)
            return
        self._troubles.pop("", None)
        self._forget_all_but({deployment.id for deployment in found})
        self._ask_all(found)
        for deployment in found:
            self._reconcile(deployment.id)

    def _reconcile(self, id: str) -> None:
        try:
            for _ in range(STEPS_PER_LOOK):
                if not self._step(id):
                    break
            self._troubles.pop(id, None)
        except NoSuchRow:  # deleted since we read the list
            return
        except Exception as error:  # noqa: BLE001  # the one place: recorded, then the next deployment
            self._remember_trouble(id, error)

    def _step(self, id: str) -> bool:
        """Look at one deployment, decide and act; False if there was nothing to do."""
        with self._database.read() as session:
            deployment = deployments.get(session, id)
        attempt = deployment.last_attempt
        if attempt is not None and attempt.ended_at is not None:
            attempt = None
        watch = self._watch(deployment, attempt)
        now = self._clock()
        seen = self._observer.observe(attempt, watch)
        action = next_action(deployment, attempt, seen, now, self._policy)
        if isinstance(action, Rest):
            return False
        log.debug("%s: %s", id, action)
        self._actor.act(action, deployment, attempt, watch, now)
        return not deployment.state.is_final

    def _watch(self, deployment: Deployment, attempt: Attempt | None) -> Watch:
        """What we remember of the attempt; nothing if another supervisor began it."""
        watch = self._watches.get(deployment.id)
        attempt_id = attempt.id if attempt else None
        if watch is not None and watch.attempt_id == attempt_id:
            return watch
        watch = self._watches[deployment.id] = Watch(attempt_id)
        if attempt is not None:
            self._observer.note_adoption(attempt)
        return watch

    def _forget_all_but(self, ids: set[str]) -> None:
        for id in self._watches.keys() - ids:
            del self._watches[id]

    # --- health -------------------------------------------------------------------------------

    def _ask_all(self, found: Sequence[Deployment]) -> None:
        """Ask every engine whose time has come, all at once: one that hangs delays no other."""
        due = [(d, w) for d in found if (w := self._watches.get(d.id)) and self._is_due(d, w)]
        answers = self._probes.map(ask_health, [d.endpoint or "" for d, _ in due])
        for (_, watch), health in zip(due, answers, strict=True):
            watch.checks = watch.checks.after(health, self._clock())

    def _is_due(self, deployment: Deployment, watch: Watch) -> bool:
        attempt = deployment.last_attempt
        if attempt is None or attempt.ended_at is not None or deployment.endpoint is None:
            return False
        if process_of(attempt) is None or watch.attempt_id != attempt.id:
            return False
        asked_at = watch.checks.checked_at
        if asked_at is None or watch.checks.failed or deployment.state is State.STARTING:
            return True
        return self._clock() - asked_at >= timedelta(seconds=CHECK_READY_EVERY_S)

    # --- trouble ------------------------------------------------------------------------------

    def _remember_trouble(self, id: str, error: Exception) -> None:
        """Write an error down once, not at every look for as long as it lasts."""
        text = f"{type(error).__name__}: {error}"
        if self._troubles.get(id) == text:
            return
        self._troubles[id] = text
        is_bug = not isinstance(error, DatabaseError)  # that one says all that a person needs
        log.error("%s: %s", id or "database", text, exc_info=error if is_bug else None)
        if not id:
            return
        trace = "".join(traceback.format_exception(error))
        try:
            with self._database.begin() as session:
                events.add(session, id, kind="error", message=text, data={"traceback": trace})
        except DatabaseError as second:
            log.error("%s: could not be recorded: %s", id, second)
