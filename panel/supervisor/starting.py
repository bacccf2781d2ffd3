"""The way up: an attempt is written down, its stages worked through, its engine started.

What is about to happen is written first, where a crash between the two could leave something
running that nobody knows of.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from db import attempts, deployments, stages
from db.models import Attempt, Deployment, StageName, StageStatus, State
from db.session import Database
from engine.errors import EngineError
from panel.errors import NotFound, PanelError
from panel.ports import next_free, require_free
from panel.runtimes import engine
from panel.runtimes.engine import Command
from panel.runtimes.plan import Plan
from panel.settings import Settings
from panel.sizing.fit import Verdict
from panel.supervisor import preparing, probe
from panel.supervisor.causes import Cause, Exit
from panel.supervisor.jobs import Job, ThreadJob, exit_of
from panel.supervisor.lifecycle import Policy
from panel.supervisor.preflight import preflight
from panel.supervisor.probe import Checks
from panel.supervisor.watch import Watch, marker_of
from panel.targets import process

MakeCommand = Callable[..., Command]


class Starter:
    """Effects from the first stage to READY.

    command: makes the engine's command from a plan; a test puts another program there.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        policy: Policy,
        command: MakeCommand = engine.command,
    ) -> None:
        self._settings = settings
        self._database = database
        self._policy = policy
        self._command = command

    def begin(self, deployment: Deployment) -> None:
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

    def work(
        self, stage: StageName, deployment: Deployment, attempt: Attempt, watch: Watch
    ) -> None:
        with self._database.begin() as session:
            stages.start(session, attempt.id, stage)
        cancel_job(watch)
        try:
            watch.job = self._job(stage, deployment, attempt)
        except (PanelError, EngineError) as error:
            watch.exit = exit_of(error)

    def _job(self, stage: StageName, deployment: Deployment, attempt: Attempt) -> Job:
        plan = Plan.from_dict(deployment.plan)
        models_path = self._settings.models_path
        if stage is StageName.DOWNLOAD:
            return preparing.PrepareJob(plan.source, models_path, marker_of(attempt))
        if stage is StageName.PREFLIGHT:
            was_told = (deployment.predicted or {}).get("verdict") == Verdict.TOO_LARGE
            return ThreadJob(stage, partial(preflight, plan, models_path, is_forced=was_told))
        assert deployment.endpoint is not None, deployment.id
        timeout_s = self._policy.deadlines_s[StageName.FIRST_TOKEN]
        key_file = deployment.api_key_file
        return ThreadJob(stage, partial(_first_token, deployment.endpoint, key_file, timeout_s))

    def finish(
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
        except (PanelError, EngineError) as error:
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

    def start(self, deployment: Deployment, attempt: Attempt, watch: Watch) -> None:
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

    def enter(self, entered: StageName, attempt: Attempt) -> None:
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


def cancel_job(watch: Watch) -> None:
    if watch.job is not None:
        watch.job.cancel()
        watch.job = None


def _first_token(endpoint: str, key_file: str | None, timeout_s: float) -> probe.FirstToken:
    try:
        key = Path(key_file).read_text().strip() if key_file else None
    except OSError as error:
        raise NotFound(
            f"The API key cannot be read: {error}.", fix="Redeploy it; a new key is made then."
        ) from error
    return probe.first_token(endpoint, key, timeout_s)
