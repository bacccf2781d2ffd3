"""Every rule of the supervisor is one row here: a situation, and the step that it calls for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from db.models import Attempt, Deployment, Desired, Outcome, Stage, StageName, StageStatus, State
from panel.client import Health
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
from panel.supervisor.causes import Cause, Exit
from panel.supervisor.lifecycle import Policy, next_action
from panel.supervisor.seen import Ending, JobSeen, JobStatus, Observation

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
POLICY = Policy()
OOM = Cause(code="killed", message="killed by signal 9")
CRASH = Exit(code=-9, cause=OOM, is_permanent=False)
WRONG = Exit(code=2, cause=Cause(code="ConfigError", message="--x"), is_permanent=True)
OK = Health(status="ok")


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def deployment(
    state: State = State.READY,
    *past: Attempt,
    desired: Desired = Desired.RUNNING,
    next_attempt_at: datetime | None = None,
) -> Deployment:
    """past: attempts that have ended; each but the first long-lived one was a restart."""
    return Deployment(
        id="d-1",
        state=state,
        desired=desired,
        restarts=len(past),
        next_attempt_at=next_attempt_at,
        attempts=list(past),
    )


def wanted_stopped(state: State = State.READY) -> Deployment:
    return deployment(state, desired=Desired.STOPPED)


def ended(*, ready: bool, at: float = 60) -> Attempt:
    """An attempt of the past, over `at` seconds ago."""
    outcome = Outcome.CRASHED if ready else Outcome.FAILED
    return Attempt(
        id=-1, outcome=outcome, ready_at=ago(at + 1) if ready else None, ended_at=ago(at)
    )


def at(stage: StageName, *, begun_s: float | None = 1, pid: int | None = 7, **more: Any) -> Attempt:
    """An attempt whose earlier stages are done. begun_s: seconds in this stage; None: pending."""
    names = list(StageName)
    stages: list[Stage] = []
    for position, (name, deadline_s) in enumerate(POLICY.stages(0)):
        status = StageStatus.DONE if position < names.index(stage) else StageStatus.PENDING
        if name is stage and begun_s is not None:
            status = StageStatus.RUNNING
        one = Stage(name=name, status=status, deadline_s=deadline_s, detail="")
        one.started_at = ago(begun_s) if status is StageStatus.RUNNING and begun_s else None
        stages.append(one)
    return Attempt(id=1, pid=pid, stages=stages, **more)


def ready_since(seconds: float) -> Attempt:
    attempt = at(StageName.FIRST_TOKEN, ready_at=ago(seconds))
    attempt.stages[-1].status = StageStatus.DONE
    return attempt


def alive(health: Health | None = OK, **more: Any) -> Observation:
    return Observation(is_alive=True, health=health, **more)


def failing(times: int, since_s: float, **more: Any) -> Observation:
    return alive(None, failed_checks=times, failing_since=ago(since_s), **more)


def job(stage: StageName, status: JobStatus, **more: Any) -> Observation:
    return Observation(job=JobSeen(stage=stage, status=status, **more))


def loading(progress: float) -> Health:
    return Health(status="starting", stage="load", progress=progress, detail="3 of 30 layers")


def retry(exit: Exit, outcome: Outcome, wait_s: float, restarts: int) -> EndAndRetry:
    return EndAndRetry(outcome, exit.cause, exit.code, NOW + timedelta(seconds=wait_s), restarts)


PREFLIGHT, DOWNLOAD, START = StageName.PREFLIGHT, StageName.DOWNLOAD, StageName.START
LOAD, WARM_UP, FIRST_TOKEN = StageName.LOAD, StageName.WARM_UP, StageName.FIRST_TOKEN
BEFORE_START = at(PREFLIGHT, pid=None)
DOWNLOADING = at(DOWNLOAD, pid=None)
NOBODY = Observation()
STOPPING = Ending(since=ago(1), cause=None)
LATE = Ending(since=ago(1), cause=Cause(code="deadline", message="late"))

ROWS: list[tuple[str, Deployment, Attempt | None, Observation, Action]] = [
    # --- beginning
    ("asked for: begin", deployment(State.PENDING), None, NOBODY, BeginAttempt()),
    (
        "back-off not over: wait",
        deployment(State.BACKOFF, next_attempt_at=NOW + timedelta(seconds=1)),
        None,
        NOBODY,
        Rest(),
    ),
    (
        "back-off over: begin",
        deployment(State.BACKOFF, next_attempt_at=NOW),
        None,
        NOBODY,
        BeginAttempt(),
    ),
    ("given up: rest", deployment(State.FAILED), None, NOBODY, Rest()),
    ("stopped and wanted so: rest", wanted_stopped(State.STOPPED), None, NOBODY, Rest()),
    # --- our own work
    (
        "stage pending: work on it",
        deployment(State.PREPARING),
        at(PREFLIGHT, begun_s=None, pid=None),
        NOBODY,
        Work(PREFLIGHT),
    ),
    (
        "its worker was lost with the last supervisor: again",
        deployment(State.PREPARING),
        DOWNLOADING,
        NOBODY,
        Work(DOWNLOAD),
    ),
    (
        "work of the stage before is no work of this one",
        deployment(State.PREPARING),
        DOWNLOADING,
        job(PREFLIGHT, JobStatus.DONE),
        Work(DOWNLOAD),
    ),
    (
        "under way: show how far",
        deployment(State.PREPARING),
        DOWNLOADING,
        job(DOWNLOAD, JobStatus.RUNNING, progress=0.5, detail="6 of 12 MB"),
        Progress(DOWNLOAD, 0.5, "6 of 12 MB"),
    ),
    (
        "under way, nothing new: rest",
        deployment(State.PREPARING),
        DOWNLOADING,
        job(DOWNLOAD, JobStatus.RUNNING),
        Rest(),
    ),
    (
        "done: finish",
        deployment(State.PREPARING),
        DOWNLOADING,
        job(DOWNLOAD, JobStatus.DONE),
        Finish(DOWNLOAD),
    ),
    (
        "failed for good: give up",
        deployment(State.PREPARING),
        BEFORE_START,
        job(PREFLIGHT, JobStatus.FAILED, exit=WRONG),
        EndAndGiveUp(Outcome.FAILED, WRONG.cause, 2, "Starting again would not help."),
    ),
    (
        "failed by accident: once more",
        deployment(State.PREPARING),
        DOWNLOADING,
        job(DOWNLOAD, JobStatus.FAILED, exit=CRASH),
        retry(CRASH, Outcome.FAILED, 1, 1),
    ),
    # --- starting
    (
        "prepared: start",
        deployment(State.PREPARING),
        at(START, begun_s=None, pid=None),
        NOBODY,
        Start(),
    ),
    (
        "began to start, no pid written down: start (which adopts)",
        deployment(State.STARTING),
        at(START, pid=None),
        NOBODY,
        Start(),
    ),
    ("no answer yet: wait", deployment(State.STARTING), at(START), alive(None), Rest()),
    (
        "it says that it loads: enter that stage",
        deployment(State.STARTING),
        at(START),
        alive(loading(0.1)),
        Enter(LOAD),
    ),
    (
        "it loads: show how far",
        deployment(State.STARTING),
        at(LOAD),
        alive(loading(0.1)),
        Progress(LOAD, 0.1, "3 of 30 layers"),
    ),
    (
        "it is well: on to the first token, from whatever stage",
        deployment(State.STARTING),
        at(START),
        alive(),
        Enter(FIRST_TOKEN),
    ),
    (
        "ask for the first token",
        deployment(State.STARTING),
        at(FIRST_TOKEN, begun_s=None),
        alive(),
        Work(FIRST_TOKEN),
    ),
    (
        "no first token: end it",
        deployment(State.STARTING),
        at(FIRST_TOKEN),
        alive(job=JobSeen(stage=FIRST_TOKEN, status=JobStatus.FAILED, exit=CRASH)),
        Terminate(OOM),
    ),
    (
        "no first token, and never will be: end it for good",
        deployment(State.STARTING),
        at(FIRST_TOKEN),
        alive(job=JobSeen(stage=FIRST_TOKEN, status=JobStatus.FAILED, exit=WRONG)),
        Terminate(WRONG.cause, is_permanent=True),
    ),
    (
        "past the deadline: end it",
        deployment(State.STARTING),
        at(WARM_UP, begun_s=601),
        alive(None),
        Terminate(
            Cause(
                code="deadline",
                message="Stage warm_up was not done after 600 s.",
                fix="See the log for what it was doing; redeploy to try again.",
            )
        ),
    ),
    # --- ended by itself
    ("gone: collect", deployment(State.STARTING), at(LOAD), NOBODY, Collect()),
    (
        "exit code 2: give up at once",
        deployment(State.STARTING),
        at(LOAD),
        Observation(exit=WRONG),
        EndAndGiveUp(Outcome.FAILED, WRONG.cause, 2, "Starting again would not help."),
    ),
    (
        "crashed: again after 1 s",
        deployment(),
        ready_since(30),
        Observation(exit=CRASH),
        retry(CRASH, Outcome.CRASHED, 1, 1),
    ),
    (
        "third attempt that was never ready: give up",
        deployment(State.STARTING, ended(ready=False), ended(ready=False)),
        at(LOAD),
        Observation(exit=CRASH),
        EndAndGiveUp(Outcome.FAILED, OOM, -9, "3 attempts in a row never became ready."),
    ),
    (
        "one of the last three was ready: again",
        deployment(State.STARTING, ended(ready=True), ended(ready=False)),
        at(LOAD),
        Observation(exit=CRASH),
        retry(CRASH, Outcome.FAILED, 4, 3),
    ),
    (
        "fifth crash within ten minutes: give up",
        deployment(State.READY, *[ended(ready=True)] * 4),
        ready_since(30),
        Observation(exit=CRASH),
        EndAndGiveUp(Outcome.CRASHED, OOM, -9, "5 crashes within 10 minutes."),
    ),
    (
        "crashes of long ago do not count",
        deployment(State.READY, *[ended(ready=True, at=601)] * 4),
        ready_since(30),
        Observation(exit=CRASH),
        retry(CRASH, Outcome.CRASHED, 16, 5),
    ),
    # --- ready
    ("well: rest", deployment(), ready_since(30), alive(), Rest()),
    ("two failed checks: wait", deployment(), ready_since(30), failing(2, 4), Rest()),
    (
        "three failed checks: unhealthy",
        deployment(),
        ready_since(30),
        failing(3, 6),
        MarkUnhealthy("3 checks failed in 6 s: no answer"),
    ),
    (
        "unhealthy: wait",
        deployment(State.UNHEALTHY),
        ready_since(30),
        failing(9, 20),
        Rest(),
    ),
    (
        "it answers again: healthy",
        deployment(State.UNHEALTHY),
        ready_since(30),
        alive(),
        MarkHealthy(),
    ),
    (
        "adopted and not asked yet: keep what was known",
        deployment(State.UNHEALTHY),
        ready_since(30),
        alive(None),
        Rest(),
    ),
    (
        "unhealthy for a minute: end it",
        deployment(State.UNHEALTHY),
        ready_since(90),
        failing(30, 61),
        Terminate(
            Cause(
                code="hung",
                message="The engine has not been well for 61 s (no answer).",
                fix="It is started again; see the log for what it was doing.",
            )
        ),
    ),
    (
        "ready for ten minutes: forget its restarts",
        deployment(State.READY, ended(ready=True)),
        ready_since(601),
        alive(),
        ForgetRestarts(),
    ),
    # --- ended by us
    ("asked to end: wait", deployment(), ready_since(30), alive(ending=LATE), Rest()),
    (
        "grace over: kill",
        deployment(),
        ready_since(30),
        alive(ending=Ending(since=ago(16), cause=LATE.cause)),
        Kill(),
    ),
    (
        "it has ended: collect",
        deployment(State.STARTING),
        at(LOAD),
        Observation(ending=LATE),
        Collect(),
    ),
    (
        "our reason is the cause, not the signal we sent",
        deployment(State.STARTING),
        at(LOAD),
        Observation(ending=LATE, exit=CRASH),
        EndAndRetry(
            Outcome.FAILED,
            Cause(code="deadline", message="late"),
            -9,
            NOW + timedelta(seconds=1),
            1,
        ),
    ),
    (
        "ended by us for good: give up",
        deployment(State.STARTING),
        at(FIRST_TOKEN),
        Observation(ending=Ending(since=ago(1), cause=OOM, is_permanent=True), exit=CRASH),
        EndAndGiveUp(Outcome.FAILED, OOM, -9, "Starting again would not help."),
    ),
    # --- wanted stopped
    ("never begun: stopped", wanted_stopped(State.PENDING), None, NOBODY, EndStopped()),
    ("in back-off: stopped", wanted_stopped(State.BACKOFF), None, NOBODY, EndStopped()),
    (
        "while it downloads: stopped",
        wanted_stopped(State.PREPARING),
        DOWNLOADING,
        job(DOWNLOAD, JobStatus.RUNNING),
        EndStopped(),
    ),
    ("running: ask it to end", wanted_stopped(), ready_since(30), alive(), Terminate(None)),
    (
        "asked: wait",
        wanted_stopped(State.STOPPING),
        ready_since(30),
        alive(ending=STOPPING),
        Rest(),
    ),
    (
        "fifteen seconds later: kill",
        wanted_stopped(State.STOPPING),
        ready_since(30),
        alive(ending=Ending(since=ago(15.1), cause=None)),
        Kill(),
    ),
    (
        "ended: collect its last words",
        wanted_stopped(State.STOPPING),
        ready_since(30),
        Observation(ending=STOPPING),
        Collect(),
    ),
    (
        "collected: stopped",
        wanted_stopped(State.STOPPING),
        ready_since(30),
        Observation(ending=STOPPING, exit=CRASH),
        EndStopped(),
    ),
]


@pytest.mark.parametrize(
    ("d", "attempt", "seen", "action"), [r[1:] for r in ROWS], ids=[r[0] for r in ROWS]
)
def test_each_situation_calls_for_one_step(
    d: Deployment, attempt: Attempt | None, seen: Observation, action: Action
) -> None:
    assert next_action(d, attempt, seen, NOW, POLICY) == action


@pytest.mark.parametrize("restarts", range(20))
def test_the_back_off_doubles_from_one_second_to_a_minute(restarts: int) -> None:
    assert POLICY.backoff_s(restarts) == min(60, 2**restarts)


def test_a_large_model_may_take_as_long_to_load_as_its_bytes_need() -> None:
    small, large = (dict(POLICY.stages(n))[LOAD] for n in (0, 15 * 10**9))
    assert (small, large) == (300, 600)
