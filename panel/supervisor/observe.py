"""Looking at one deployment: its work under way, its log, its process. Network answers come in."""

from __future__ import annotations

from pathlib import Path

from db import events, log_lines
from db.models import Attempt
from db.session import Database
from panel.supervisor import logtail
from panel.supervisor.seen import Observation
from panel.supervisor.watch import Watch, process_of
from panel.targets import process

ENGINE = "engine"


class Observer:
    """Reads the world, and carries what programs said into the database."""

    def __init__(self, database: Database, log_lines_kept: int) -> None:
        self._database = database
        self._log_lines_kept = log_lines_kept

    def observe(self, attempt: Attempt | None, watch: Watch) -> Observation:
        """The job is looked at before the process, so that a request that failed because the
        engine died is seen together with that death."""
        if attempt is None:
            return Observation()
        job = watch.job.look() if watch.job else None
        self.store_job_lines(attempt, watch)
        self.store_log(attempt, watch, is_final=False)
        id = process_of(attempt)
        return Observation(
            job=job,
            is_alive=id is not None and process.is_alive(id),
            exit=watch.exit,
            health=watch.checks.health,
            failed_checks=watch.checks.failed,
            failing_since=watch.checks.failing_since,
            ending=watch.ending,
        )

    def note_adoption(self, attempt: Attempt) -> None:
        """Called for an attempt that an earlier supervisor began."""
        id = process_of(attempt)
        if id is None or not process.is_alive(id):
            return
        with self._database.begin() as session:
            events.add(
                session,
                attempt.deployment_id,
                kind="adopted",
                message=f"Found the engine running as process {id.pid}; it goes on.",
                attempt_id=attempt.id,
            )

    def store_job_lines(self, attempt: Attempt, watch: Watch) -> None:
        lines = watch.job.take_lines() if watch.job else []
        if lines:
            with self._database.begin() as session:
                log_lines.append(
                    session, attempt.deployment_id, attempt.id, lines, keep=self._log_lines_kept
                )

    def store_log(self, attempt: Attempt, watch: Watch, *, is_final: bool) -> None:
        """Store what the engine has written since. is_final: it is gone, so read to the end."""
        if attempt.log_path is None:
            return
        while True:
            tail = logtail.read(
                Path(attempt.log_path),
                attempt.log_offset,
                watch.head,
                source=ENGINE,
                is_final=is_final,
            )
            if tail.offset > attempt.log_offset:
                with self._database.begin() as session:
                    log_lines.append(
                        session,
                        attempt.deployment_id,
                        attempt.id,
                        tail.lines,
                        offset=tail.offset,
                        keep=self._log_lines_kept,
                    )
                attempt.log_offset = tail.offset
            watch.head = tail.head
            if tail.is_end or not is_final:
                return

    def last_error_lines(self, attempt: Attempt, limit: int) -> list[str]:
        """The newest lines of level error; where there are none, the newest of any level."""
        with self._database.read() as session:
            where = {"limit": limit, "attempt_id": attempt.id, "source": ENGINE}
            id = attempt.deployment_id
            lines = log_lines.tail(session, id, level="error", **where)
            lines = lines or log_lines.tail(session, id, **where)
        return [line.text for line in lines]
