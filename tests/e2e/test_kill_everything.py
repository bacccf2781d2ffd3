"""Kill -9 the panel, the supervisor and the engine of a real deployment, one after the other."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from db.models import Attempt, Deployment, Outcome, StageName, StageStatus, State
from panel.deployments import Panel
from panel.settings import Settings
from panel.sizing.workload import Workload
from tests.e2e.world import end_all_of, free_port, processes_of, wait_for

ROOT = Path(__file__).parents[2]


@pytest.fixture
def settings(tmp_path: Path, demo_models: Path) -> Iterator[Settings]:
    """An empty home with the demo model in it; what was started there is gone afterwards."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "models").symlink_to(demo_models)
    yield Settings(home=str(home), port=free_port(), interval_s=0.2)
    end_all_of(home)


@pytest.fixture
def up(settings: Settings, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`autoglm up`, with its panel answering."""
    with (tmp_path / "up.log").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "panel.cli", "up"],
            cwd=ROOT,
            env={**os.environ, **settings.child_environment()},
            stdout=log,
            stderr=log,
        )
    wait_for("the panel", lambda: panel_answers(settings))
    yield child
    child.kill()
    child.wait()


@pytest.fixture
def panel(settings: Settings) -> Iterator[Panel]:
    found = Panel.open(settings)
    yield found
    found.close()


def panel_answers(settings: Settings) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{settings.port}/_stcore/health").is_success
    except httpx.TransportError:
        return False


def kill(home: Path, words: str) -> int:
    """Kill -9 the one process with these words; wait until another has taken its place."""
    (found,) = processes_of(home, words)
    found.kill()

    def successor() -> int | None:
        return next((p.pid for p in processes_of(home, words) if p.pid != found.pid), None)

    return wait_for(f"another {words}", successor)


def has_begun(deployment: Deployment, name: StageName) -> bool:
    stages = deployment.attempts[-1].stages if deployment.attempts else []
    return any(s.name is name and s.status is not StageStatus.PENDING for s in stages)


def states(panel: Panel, id: str) -> list[str]:
    """The states that the history tells, in order; a busy machine's hiccups left out."""
    events = sorted(panel.events(id), key=lambda event: event.id)
    told = [e.data["to"] for e in events if e.kind == "state" and e.data]
    lasting = [state for state in told if state != State.UNHEALTHY]
    return [state for state, _ in itertools.groupby(lasting)]


def assert_complete(attempt: Attempt) -> None:
    assert all(stage.status is StageStatus.DONE for stage in attempt.stages), attempt.stages
    assert all(stage.duration_s is not None for stage in attempt.stages)
    assert attempt.argv is not None
    assert attempt.environment is not None
    assert attempt.measured is not None
    assert attempt.measured["first_token_s"] > 0


@pytest.mark.timeout(600)
def test_whatever_is_killed_the_deployment_goes_on_and_its_history_is_complete(
    settings: Settings, up: subprocess.Popen[bytes], panel: Panel
) -> None:
    home = settings.home_path
    plan = panel.plan("demo", name="demo", precision="float32", workload=Workload(512, 2))
    id = panel.launch(plan, actor="tester").id

    def now() -> Deployment:
        return panel.deployment(id)

    # The panel, while the engine starts: nothing of the deployment notices.
    wait_for("the engine", lambda: now().state is State.STARTING)
    kill(home, "panel.ui.serve")

    # The supervisor, while the model loads: the next one adopts the engine that is starting.
    wait_for("loading", lambda: has_begun(now(), StageName.LOAD))
    kill(home, "panel.supervisor")
    ready = wait_for("ready", lambda: now() if now().state is State.READY else None)
    (first,) = ready.attempts
    assert_complete(first)
    assert first.pid is not None
    assert "adopted" in [event.kind for event in panel.events(id)]
    wait_for("the panel's return", lambda: panel_answers(settings))

    # The engine: started again, and it answers.
    os.kill(first.pid, signal.SIGKILL)
    again = wait_for("a second attempt", lambda: now() if len(now().attempts) == 2 else None)
    again = wait_for("ready again", lambda: now() if now().state is State.READY else None)
    crashed, second = again.attempts
    assert crashed.outcome is Outcome.CRASHED
    assert crashed.cause is not None
    assert_complete(crashed)
    assert_complete(second)
    with panel.client(again) as client:
        answer = client.chat([{"role": "user", "content": "Say hello."}], max_tokens=8)
    assert answer.text.strip()

    # Stop: the history stays, no process does.
    panel.stop(id, actor="tester")
    stopped = wait_for("stopped", lambda: now() if now().state is State.STOPPED else None)
    assert stopped.attempts[-1].outcome is Outcome.STOPPED
    assert states(panel, id) == [
        *("preparing", "starting", "ready"),
        *("backoff", "preparing", "starting", "ready"),
        *("stopping", "stopped"),
    ]
    assert [p.cmdline() for p in processes_of(home, "engine.")] == []
    starts = [line for line in panel.logs(id, limit=5000) if "Asked to stop" in line.text]
    assert len(starts) == 1

    up.terminate()
    assert up.wait(timeout=30) == 0
    assert [p.cmdline() for p in processes_of(home)] == []
