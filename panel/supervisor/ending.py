"""The way down: ending an engine with all its kin, hearing its last words, closing its attempt."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from db import attempts, deployments, events
from db.models import Attempt, Deployment, Outcome, State
from db.session import Database
from panel.ports import is_free
from panel.runtimes.plan import Plan
from panel.supervisor import preparing
from panel.supervisor.actions import EndAndGiveUp, EndAndRetry, Terminate
from panel.supervisor.causes import EVIDENCE_LINES, explain_exit
from panel.supervisor.observe import Observer
from panel.supervisor.seen import Ending
from panel.supervisor.watch import Watch, marker_of, process_of
from panel.targets import process


class Ender:
    """Effects from the wish to end an engine to the row that says how it went."""

    def __init__(self, database: Database, observer: Observer) -> None:
        self._database = database
        self._observer = observer

    def terminate(
        self,
        action: Terminate,
        deployment: Deployment,
        attempt: Attempt,
        watch: Watch,
        now: datetime,
    ) -> None:
        cause = action.cause
        watch.ending = Ending(since=now, cause=cause, is_permanent=action.is_permanent)
        if cause is None:
            with self._database.begin() as session:
                deployments.set_state(session, deployment.id, State.STOPPING)
        else:
            self._note(attempt, "ending", f"The engine is ended: {cause.message}", cause.to_dict())
        id = process_of(attempt)
        if id is not None:
            process.terminate(id)

    def kill(self, attempt: Attempt) -> None:
        count = process.kill(process_of(attempt), marker_of(attempt))
        if count:
            self._note(attempt, "killed", f"{count} processes did not end when asked; killed.")

    def collect(self, deployment: Deployment, attempt: Attempt, watch: Watch) -> None:
        id = process_of(attempt)
        left = process.kill(id, marker_of(attempt))
        if left:
            self._note(attempt, "reaped", f"Ended {left} processes that the engine left behind.")
        self._observer.store_log(attempt, watch, is_final=True)
        code = process.exit_code(id) if id else None
        lines = self._observer.last_error_lines(attempt, EVIDENCE_LINES)
        watch.exit = explain_exit(code, lines)
        plan = Plan.from_dict(deployment.plan)
        if plan.port is None and attempt.port and not is_free(plan.host, attempt.port):
            # Somebody took the port that we had chosen: the next attempt gets another one.
            watch.exit = replace(watch.exit, is_permanent=False)

    def stopped(self, deployment: Deployment, attempt: Attempt | None, watch: Watch) -> None:
        code = watch.exit.code if watch.exit else None
        if attempt is not None:
            self._leave_nothing(attempt, watch)
        with self._database.begin() as session:
            if attempt is not None:
                attempts.end(session, attempt.id, Outcome.STOPPED, exit_code=code)
            deployments.set_state(
                session, deployment.id, State.STOPPED, endpoint=None, next_attempt_at=None
            )

    def and_retry(
        self,
        action: EndAndRetry,
        deployment: Deployment,
        attempt: Attempt,
        watch: Watch,
        now: datetime,
    ) -> None:
        self._leave_nothing(attempt, watch)
        wait_s = (action.at - now).total_seconds()
        message = f"{action.cause.message} Started again in {wait_s:g} s."
        with self._database.begin() as session:
            _end(session, attempt, action)
            deployments.set_state(
                session,
                deployment.id,
                State.BACKOFF,
                message,
                endpoint=None,
                restarts=action.restarts,
                next_attempt_at=action.at,
            )

    def and_give_up(
        self, action: EndAndGiveUp, deployment: Deployment, attempt: Attempt, watch: Watch
    ) -> None:
        self._leave_nothing(attempt, watch)
        with self._database.begin() as session:
            _end(session, attempt, action)
            message = f"{action.cause.message} {action.why}"
            deployments.set_state(
                session, deployment.id, State.FAILED, message, endpoint=None, next_attempt_at=None
            )

    def _leave_nothing(self, attempt: Attempt, watch: Watch) -> None:
        """End what the attempt may still have running, also what was never written down."""
        if watch.job is not None:
            watch.job.cancel()
            self._observer.store_job_lines(attempt, watch)
            watch.job = None
        process.kill(process_of(attempt), marker_of(attempt))
        process.kill(None, preparing.marker_of(marker_of(attempt)))

    def _note(
        self, attempt: Attempt, kind: str, message: str, data: dict[str, Any] | None = None
    ) -> None:
        with self._database.begin() as session:
            events.add(
                session,
                attempt.deployment_id,
                kind=kind,
                message=message,
                attempt_id=attempt.id,
                data=data,
            )


def _end(session: Session, attempt: Attempt, action: EndAndRetry | EndAndGiveUp) -> None:
    attempts.end(
        session,
        attempt.id,
        action.outcome,
        exit_code=action.exit_code,
        cause=action.cause.to_dict(),
    )
