"""One step of one deployment toward what was asked for. Pure: every rule is one row of a test.

    PENDING ─ begin ─► PREPARING ─ start ─► STARTING ─ first token ─► READY ⇄ UNHEALTHY
       ▲                   │                   │                        │         │
       └──── BACKOFF ◄─────┴───────────────────┴──── ended by itself ───┴─────────┘
                │
                └─ three attempts never ready, five crashes in ten minutes, or an error
                   that starting again will not cure ─► FAILED

The stages of an attempt say where it is; the supervisor's memory (jobs under way, failed checks)
only says what was seen. Lose it, and the same rules find the way again from the rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from db.models import (
    Attempt,
    Deployment,
    Desired,
    Outcome,
    Stage,
    StageName,
    StageStatus,
    State,
)
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
from panel.supervisor.seen import JobSeen, JobStatus, Observation

OWN_WORK = (StageName.PREFLIGHT, StageName.DOWNLOAD, StageName.FIRST_TOKEN)
"""Stages in which the supervisor works; in the others the engine does."""

LOAD_BYTES_PER_S = 50e6
"""A slow disk: what a load deadline allows for, on top of its fixed part."""

DEADLINES_S: Mapping[StageName, float] = {
    StageName.PREFLIGHT: 60,
    StageName.DOWNLOAD: 6 * 3600,
    StageName.START: 60,
    StageName.LOAD: 300,
    StageName.WARM_UP: 600,
    StageName.FIRST_TOKEN: 180,
}


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Every limit of the rules, in one place."""

    deadlines_s: Mapping[StageName, float] = field(default_factory=lambda: DEADLINES_S)
    failed_checks: int = 3  # then it is unhealthy …
    hung_after_s: float = 60  # … and after this it is ended and started again
    stop_grace_s: float = 15  # from SIGTERM to SIGKILL
    backoff_first_s: float = 1
    backoff_most_s: float = 60
    never_ready_attempts: int = 3
    crashes: int = 5
    crash_window_s: float = 600
    ready_for_long_s: float = 600

    def stages(self, weight_bytes: int) -> list[tuple[StageName, float]]:
        """Every stage with its deadline; loading may take as long as its bytes need."""
        more = {StageName.LOAD: weight_bytes / LOAD_BYTES_PER_S}
        return [(name, s + more.get(name, 0)) for name, s in self.deadlines_s.items()]

    def backoff_s(self, restarts: int) -> float:
        return min(self.backoff_most_s, self.backoff_first_s * 2 ** min(restarts, 16))


def next_action(
    deployment: Deployment,
    attempt: Attempt | None,
    seen: Observation,
    now: datetime,
    policy: Policy,
) -> Action:
    """Choose one step.

    deployment: with all its attempts. attempt: the one that has not ended, with its stages.
    """
    if attempt is None and deployment.state.is_final:
        return Rest()
    if deployment.desired is Desired.STOPPED:
        return _toward_stopped(attempt, seen, now, policy)
    if attempt is None:
        is_waiting = deployment.next_attempt_at is not None and now < deployment.next_attempt_at
        return Rest() if is_waiting else BeginAttempt()
    if seen.ending is not None:
        return _while_ending(deployment, attempt, seen, now, policy)
    if seen.exit is not None:
        return _after_end(deployment, attempt, seen.exit, now, policy)
    if attempt.pid is not None and not seen.is_alive:
        return Collect()
    if attempt.ready_at is not None:
        return _while_ready(deployment, attempt, seen, now, policy)
    return _toward_ready(deployment, attempt, seen, now, policy)


def _toward_stopped(
    attempt: Attempt | None, seen: Observation, now: datetime, policy: Policy
) -> Action:
    if attempt is None or not seen.is_alive:
        needs_collecting = attempt is not None and attempt.pid is not None and seen.exit is None
        return Collect() if needs_collecting else EndStopped()
    if seen.ending is None:
        return Terminate(None)
    return _kill_after_grace(seen.ending.since, now, policy)


def _while_ending(
    deployment: Deployment, attempt: Attempt, seen: Observation, now: datetime, policy: Policy
) -> Action:
    """We ended it ourselves (a deadline, a hang): that is the cause, whatever its exit code."""
    assert seen.ending is not None
    if seen.is_alive:
        return _kill_after_grace(seen.ending.since, now, policy)
    if seen.exit is None:
        return Collect()
    cause = seen.ending.cause or seen.exit.cause
    with_evidence = Cause(
        code=cause.code, message=cause.message, fix=cause.fix, evidence=seen.exit.cause.evidence
    )
    ended = Exit(code=seen.exit.code, cause=with_evidence, is_permanent=seen.ending.is_permanent)
    return _after_end(deployment, attempt, ended, now, policy)


def _kill_after_grace(since: datetime, now: datetime, policy: Policy) -> Action:
    return Kill() if now - since > timedelta(seconds=policy.stop_grace_s) else Rest()


def _toward_ready(
    deployment: Deployment, attempt: Attempt, seen: Observation, now: datetime, policy: Policy
) -> Action:
    stage = current_stage(attempt)
    assert stage is not None, "the last stage and ready_at are written together"
    if stage.name in OWN_WORK:
        action = _own_work(deployment, attempt, stage, seen.job, now, policy)
    elif stage.name is StageName.START and attempt.pid is None:
        action = Start()
    else:
        action = _engine_work(stage, seen)
    if isinstance(action, Rest | Progress) and _is_late(stage, now):
        return _too_late(deployment, attempt, stage, now, policy)
    return action


def _own_work(
    deployment: Deployment,
    attempt: Attempt,
    stage: Stage,
    job: JobSeen | None,
    now: datetime,
    policy: Policy,
) -> Action:
    if job is None or job.stage is not stage.name:
        return Work(stage.name)
    if job.status is JobStatus.DONE:
        return Finish(stage.name)
    if job.status is JobStatus.RUNNING:
        return _progress(stage, job.progress, job.detail)
    assert job.exit is not None, job
    if attempt.pid is not None:
        return Terminate(job.exit.cause, job.exit.is_permanent)
    return _after_end(deployment, attempt, job.exit, now, policy)


def _engine_work(stage: Stage, seen: Observation) -> Action:
    """START, LOAD and WARM_UP: the engine says where it is."""
    health = seen.health
    if health is None:
        return Rest()
    if health.is_ok:
        return Enter(StageName.FIRST_TOKEN)
    if health.stage in (StageName.LOAD, StageName.WARM_UP) and health.stage != stage.name:
        return Enter(StageName(health.stage))
    return _progress(stage, health.progress, health.detail)


def _progress(stage: Stage, progress: float | None, detail: str) -> Action:
    if (stage.progress, stage.detail) == (progress, detail):
        return Rest()
    return Progress(stage.name, progress, detail)


def _is_late(stage: Stage, now: datetime) -> bool:
    if stage.started_at is None:
        return False
    return now - stage.started_at > timedelta(seconds=stage.deadline_s)


def _too_late(
    deployment: Deployment, attempt: Attempt, stage: Stage, now: datetime, policy: Policy
) -> Action:
    cause = Cause(
        code="deadline",
        message=f"Stage {stage.name} was not done after {stage.deadline_s:g} s.",
        fix="See the log for what it was doing; redeploy to try again.",
        evidence=(stage.detail,) if stage.detail else (),
    )
    if attempt.pid is not None:
        return Terminate(cause)
    return _after_end(
        deployment, attempt, Exit(code=None, cause=cause, is_permanent=False), now, policy
    )


def _while_ready(
    deployment: Deployment, attempt: Attempt, seen: Observation, now: datetime, policy: Policy
) -> Action:
    assert attempt.ready_at is not None
    if seen.failed_checks >= policy.failed_checks:
        return _while_unhealthy(deployment, seen, now, policy)
    if seen.failed_checks == 0 and deployment.state is not State.READY and seen.health:
        return MarkHealthy()
    is_ready_long = now - attempt.ready_at > timedelta(seconds=policy.ready_for_long_s)
    if deployment.restarts and is_ready_long and deployment.state is State.READY:
        return ForgetRestarts()
    return Rest()


def _while_unhealthy(
    deployment: Deployment, seen: Observation, now: datetime, policy: Policy
) -> Action:
    assert seen.failing_since is not None
    last = seen.health.detail or seen.health.status if seen.health else "no answer"
    silent_s = (now - seen.failing_since).total_seconds()
    if silent_s > policy.hung_after_s:
        return Terminate(
            Cause(
                code="hung",
                message=f"The engine has not been well for {silent_s:.0f} s ({last}).",
                fix="It is started again; see the log for what it was doing.",
            )
        )
    if deployment.state is not State.UNHEALTHY:
        return MarkUnhealthy(f"{seen.failed_checks} checks failed in {silent_s:.0f} s: {last}")
    return Rest()


def _after_end(
    deployment: Deployment, attempt: Attempt, exit: Exit, now: datetime, policy: Policy
) -> Action:
    """The attempt ended by itself: start again after a while, or give up."""
    outcome = Outcome.FAILED if attempt.ready_at is None else Outcome.CRASHED
    why = _reason_to_give_up(deployment, attempt, exit, now, policy)
    if why is not None:
        return EndAndGiveUp(outcome, exit.cause, exit.code, why)
    wait = timedelta(seconds=policy.backoff_s(deployment.restarts))
    return EndAndRetry(outcome, exit.cause, exit.code, now + wait, deployment.restarts + 1)


def _reason_to_give_up(
    deployment: Deployment, attempt: Attempt, exit: Exit, now: datetime, policy: Policy
) -> str | None:
    if exit.is_permanent:
        return "Starting again would not help."
    ended = [a for a in deployment.attempts if a.ended_at is not None and a.id != attempt.id]
    past = ended[::-1][: deployment.restarts]  # newest first, since it was ready for long
    if attempt.ready_at is None:
        before = past[: policy.never_ready_attempts - 1]
        never_ready = 1 + sum(a.ready_at is None for a in before)
        if never_ready >= policy.never_ready_attempts:
            return f"{never_ready} attempts in a row never became ready."
        return None
    since = now - timedelta(seconds=policy.crash_window_s)
    crashes = 1 + sum(a.outcome is Outcome.CRASHED and (a.ended_at or now) > since for a in past)
    if crashes >= policy.crashes:
        return f"{crashes} crashes within {policy.crash_window_s / 60:g} minutes."
    return None


def current_stage(attempt: Attempt) -> Stage | None:
    """The first stage that is not over; None once all are."""
    over = (StageStatus.DONE, StageStatus.SKIPPED)
    return next((s for s in attempt.stages if s.status not in over), None)
