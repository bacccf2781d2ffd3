"""Each action goes to the code that makes it so."""

from __future__ import annotations

from datetime import datetime

from db import deployments, stages
from db.models import Attempt, Deployment, State
from db.session import Database
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
from panel.supervisor.ending import Ender
from panel.supervisor.starting import Starter
from panel.supervisor.watch import Watch


class Actor:
    """Every effect that the supervisor has. One instance serves all deployments."""

    def __init__(self, database: Database, starter: Starter, ender: Ender) -> None:
        self._database = database
        self._starter = starter
        self._ender = ender

    def act(
        self,
        action: Action,
        deployment: Deployment,
        attempt: Attempt | None,
        watch: Watch,
        now: datetime,
    ) -> None:
        """Do one step and write it down."""
        match action:
            case Rest():
                return
            case BeginAttempt():
                self._starter.begin(deployment)
                return
            case EndStopped():
                self._ender.stopped(deployment, attempt, watch)
                return
        assert attempt is not None, action
        match action:
            case Work(stage):
                self._starter.work(stage, deployment, attempt, watch)
            case Progress(stage, progress, detail):
                with self._database.begin() as session:
                    stages.progress(session, attempt.id, stage, progress, detail)
            case Finish(stage):
                self._starter.finish(stage, deployment, attempt, watch)
            case Start():
                self._starter.start(deployment, attempt, watch)
            case Enter(stage):
                self._starter.enter(stage, attempt)
            case MarkUnhealthy(message):
                self._set_state(deployment, State.UNHEALTHY, message)
            case MarkHealthy():
                self._set_state(deployment, State.READY, "It answers again.")
            case ForgetRestarts():
                with self._database.begin() as session:
                    deployments.set_state(session, deployment.id, deployment.state, restarts=0)
            case Terminate():
                self._ender.terminate(action, deployment, attempt, watch, now)
            case Kill():
                self._ender.kill(attempt)
            case Collect():
                self._ender.collect(deployment, attempt, watch)
            case EndAndRetry():
                self._ender.and_retry(action, deployment, attempt, watch, now)
            case EndAndGiveUp():
                self._ender.and_give_up(action, deployment, attempt, watch)

    def _set_state(self, deployment: Deployment, state: State, message: str) -> None:
        with self._database.begin() as session:
            deployments.set_state(session, deployment.id, state, message)
