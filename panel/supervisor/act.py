"""Making an action so, and writing it down: what is about to happen first, where a crash between
the two could leave something running that nobody knows of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from db import attempts, deployments, events, stages
from db.models import Attempt, Deployment, Outcome, StageName, StageStatus, State
from db.session import Database
from panel.errors import PanelError
from panel.ports import is_free, next_free, require_free
from panel.runtimes import engine
from panel.runtimes.engine import Command
from panel.runtimes.plan import Plan
from panel.settings import Settings
from panel.sizing.fit import Verdict
from panel.supervisor import preparing, probe
from panel.supervisor.actions import (
    Action,
    BeginAttempt,
    Collect,
    EndAndGiveUp,
    EndAndRetry,
    EndStopped,
    Enter,
    Finish,
    ForgetRestarts,
    Kill,
    MarkHealthy,
    MarkUnhealthy,
    Progress,
    Rest,
    Start,
    Terminate,
    Work,
)
from panel.supervisor.causes import EVIDENCE_LINES, Cause, Exit, explain_exit
from panel.supervisor.jobs import Job, ThreadJob, exit_of
from panel.supervisor.lifecycle import Policy
from panel.supervisor.observe import Observer
from panel.supervisor.preflight import preflight
from panel.supervisor.probe import Checks
from panel.supervisor.seen import Ending
from panel.supervisor.watch import Watch, marker_of, process_of
from panel.targets import process

MakeCommand = Callable[..., Command]


class Actor:
    """Every effect that the supervisor has. One instance serves all deployments.

    command: makes the engine's command from a plan; a test puts another program there.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        observer: Observer,
        policy: Policy,
        command: MakeCommand = engine.command,
    ) -> None:
        self._settings = settings
        self._database = database
        self._observer = observer
        self._policy = policy
        self._command = command

    def act(
        self,
        action: Action,
        deployment: Deployment,
        attempt: Attempt | None,
        watch: Watch,
        now: datetime,
    ) -> None:
        """Do one step. What a person must cure (a port taken since) becomes the attempt's end."""
        match action:
            case Rest():
                return
            case BeginAttempt():
                self._begin(deployment)
                return
            case EndStopped():
                self._end_stopped(deployment, attempt, watch)
                return
        assert attempt is not None, action
        match action:
            case Work(stage):
                self._work(stage, deployment, attempt, watch)
            case Progress(stage, progress, detail):
                with self._database.begin() as session:
                    stages.progress(session, attempt.id, stage, progress, detail)
            case Finish(stage):
                self._finish(stage, deployment, attempt, watch)
            case Start():
                self._start(deployment, attempt, watch)
            case Enter(stage):
                self._enter(stage, attempt)
            case MarkUnhealthy(message):
                self._set_state(deployment, State.UNHEALTHY, message)
            case MarkHealthy():
                self._set_state(deployment, State.READY, "It answers again.")
            case ForgetRestarts():
                self._forget_restarts(deployment)
            case Terminate(cause):
                self._terminate(cause, deployment, attempt, watch, now)
            case Kill():
                self._kill(attempt)
            case Collect():
                self._collect(deployment, attempt, watch)
            case EndAndRetry():
                self._end_and_retry(action, deployment, attempt, watch, now)
            case EndAndGiveUp():
                self._end_and_give_up(action, deployment, attempt, watch)

    # --- beginning ----------------------------------------------------------------------------

    def _begin(self, deployment: Deployment) -> None:
        predicted = deployment.predicted or {}
        plan = self._policy.stages(int(predicted.get("weight_bytes", 0)))
        with self._database.begin() as session:
            attempt = attempts.begin(session, deployment.id, plan)
            log_path = self._settings.logs_path / deployment.id / f"{attempt.number}.log"
            attempts.update(session, attempt.id, log_path=str(log_path))
            deployments.set_state(
                session,
                deployment.id,
                State.PREPARING,
                f"Attempt {attempt.number} begins.",
                endpoint=None,
                next_attempt_at=None,
            )

    def _work(
        self, stage: StageName, deployment: Deployment, attempt: Attempt, watch: Watch
    ) -> None:
        with self._database.begin() as session:
            stages.start(session, attempt.id, stage)
        _cancel_job(watch)
        watch.job = self._job(stage, deployment, attempt)

    def _job(self, stage: StageName, deployment: Deployment, attempt: Attempt) -> Job:
        plan = Plan.from_dict(deployment.plan)
        models_path = self._settings.models_path
        if stage is StageName.DOWNLOAD:
            return preparing.PrepareJob(plan.source, models_path, marker_of(attempt))
        if stage is StageName.PREFLIGHT:
            was_told = (deployment.predicted or {}).get("verdict") == Verdict.TOO_LARGE
            return ThreadJob(stage, partial(preflight, plan, models_path, is_forced=was_told))
        assert deployment.endpoint is not None, deployment.id
        key = _read_key(deployment.api_key_file)
        timeout_s = self._policy.deadlines_s[StageName.FIRST_TOKEN]
        return ThreadJob(stage, partial(probe.first_token, deployment.endpoint, key, timeout_s))

    def _finish(
        self, stage: StageName, deployment: Deployment, attempt: Attempt, watch: Watch
    ) -> None:
        assert watch.job is not None, stage
        result = watch.job.look().result
        finish = {
            StageName.PREFLIGHT: self._finish_preflight,
            StageName.DOWNLOAD: self._finish_download,
            StageName.FIRST_TOKEN: self._become_ready,
        }[stage]
        try:
            finish(result, deployment, attempt, watch)
        except PanelError as error:
            watch.exit = exit_of(error)
            return
        watch.job = None

    def _finish_preflight(
        self, environment: dict[str, Any], _: Deployment, attempt: Attempt, __: Watch
    ) -> None:
        with self._database.begin() as session:
            attempts.update(session, attempt.id, environment=environment)
            stages.finish(session, attempt.id, StageName.PREFLIGHT)

    def _finish_download(
        self, model_path: Path, deployment: Deployment, attempt: Attempt, _: Watch
    ) -> None:
        """The model lies ready: now port and command are known. Raises PortInUse."""
        plan = Plan.from_dict(deployment.plan)
        port = plan.port
        if port is None:
            port = next_free(plan.host, self._ports_given_out())
        else:
            require_free(plan.host, port)
        command = self._command(
            plan, model_path=model_path, port=port, api_key_file=deployment.api_key_file
        )
        with self._database.begin() as session:
            attempts.update(session, attempt.id, argv=command.to_dict(), port=port)
            stages.finish(session, attempt.id, StageName.DOWNLOAD, str(model_path))

    def _ports_given_out(self) -> set[int]:
        """Ports of attempts that may not listen yet."""
        with self._database.read() as session:
            wanted = deployments.to_reconcile(session)
        last = [d.last_attempt for d in wanted]
        return {a.port for a in last if a and a.port and a.ended_at is None}

    def _start(self, deployment: Deployment, attempt: Attempt, watch: Watch) -> None:
        assert attempt.argv is not None, attempt.id
        assert attempt.log_path is not None, attempt.id
        host = Plan.from_dict(deployment.plan).host
        near = "127.0.0.1" if host in ("0.0.0.0", "::") else host
        with self._database.begin() as session:
            stages.start(session, attempt.id, StageName.START)
            deployments.set_state(
                session,
                deployment.id,
                State.STARTING,
                endpoint=f"http://{f'[{near}]' if ':' in near else near}:{attempt.port}",
            )
        id = process.adopt(marker_of(attempt))
        if id is None:
            command = Command.from_dict(attempt.argv)
            try:
                log_path = Path(attempt.log_path)
                id = process.start(command, marker=marker_of(attempt), log_path=log_path)
            except OSError as error:
                cause = Cause(code="cannot_start", message=f"{command.argv[0]}: {error}")
                watch.exit = Exit(code=None, cause=cause, is_permanent=True)
                return
        with self._database.begin() as session:
            attempts.update(session, attempt.id, pid=id.pid, pid_started_at=id.started_at)

    def _enter(self, entered: StageName, attempt: Attempt) -> None:
        """The engine has reached a stage; those before it are over, seen or not."""
        with self._database.begin() as session:
            for stage in attempt.stages:
                if stage.name is entered:
                    break
                if stage.status in (StageStatus.RUNNING, StageStatus.PENDING):
                    stages.finish(session, attempt.id, stage.name)
            if entered is not StageName.FIRST_TOKEN:  # that one is our work, begun by Work
                stages.start(session, attempt.id, entered)

    def _become_ready(
        self, token: probe.FirstToken, deployment: Deployment, attempt: Attempt, watch: Watch
    ) -> None:
        health = watch.checks.health
        measured = {**(health.facts if health else {}), "first_token_s": token.ttft_s}
        with self._database.begin() as session:
            stages.finish(session, attempt.id, StageName.FIRST_TOKEN, f"{token.ttft_s:.2f} s")
            attempts.mark_ready(session, attempt.id, measured)
            deployments.set_state(session, deployment.id, State.READY)
        watch.checks = Checks(health=health, checked_at=watch.checks.checked_at)

    def _forget_restarts(self, deployment: Deployment) -> None:
        with self._database.begin() as session:
            deployments.set_state(session, deployment.id, deployment.state, restarts=0)

    # --- ending -------------------------------------------------------------------------------

    def _terminate(
        self,
        cause: Cause | None,
        deployment: Deployment,
        attempt: Attempt,
        watch: Watch,
        now: datetime,
    ) -> None:
        watch.ending = Ending(since=now, cause=cause)
        if cause is None:
            self._set_state(deployment, State.STOPPING)
        else:
            self._note(attempt, "ending", f"The engine is ended: {cause.message}", cause.to_dict())
        id = process_of(attempt)
        if id is not None:
            process.terminate(id)

    def _kill(self, attempt: Attempt) -> None:
        count = process.kill(process_of(attempt), marker_of(attempt))
        if count:
            self._note(attempt, "killed", f"{count} processes did not end when asked; killed.")

    def _collect(self, deployment: Deployment, attempt: Attempt, watch: Watch) -> None:
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

    def _end_stopped(self, deployment: Deployment, attempt: Attempt | None, watch: Watch) -> None:
        code = watch.exit.code if watch.exit else None
        if attempt is not None:
            self._leave_nothing(attempt, watch)
        with self._database.begin() as session:
            if attempt is not None:
                attempts.end(session, attempt.id, Outcome.STOPPED, exit_code=code)
            deployments.set_state(
                session, deployment.id, State.STOPPED, endpoint=None, next_attempt_at=None
            )

    def _end_and_retry(
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

    def _end_and_give_up(
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

    # --- writing down -------------------------------------------------------------------------

    def _set_state(self, deployment: Deployment, state: State, message: str = "") -> None:
        with self._database.begin() as session:
            deployments.set_state(session, deployment.id, state, message)

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


def _cancel_job(watch: Watch) -> None:
    if watch.job is not None:
        watch.job.cancel()
        watch.job = None


def _read_key(path: str | None) -> str | None:
    return Path(path).read_text().strip() if path else None
