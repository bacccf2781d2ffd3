"""The supervisor with real processes, signals and database; only the engine is a stand-in."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import save_file

from db import attempts
from db.models import Deployment, Outcome, StageName, StageStatus, State
from panel.deployments import Panel
from panel.errors import PortInUse
from panel.settings import Settings
from panel.supervisor.lifecycle import DEADLINES_S, Policy
from panel.supervisor.loop import Supervisor
from panel.targets import process
from panel.targets.process import MARKER
from tests.contract.run_supervisor import stand_in

QUICK = Policy(backoff_first_s=0.05, backoff_most_s=0.1, stop_grace_s=0.5)
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 1,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 128,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that passes every check and that no engine will read."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file(
        {"model.embed_tokens.weight": np.zeros((128, 8), np.float32)}, folder / "model.safetensors"
    )
    return folder


@pytest.fixture
def panel(tmp_path: Path) -> Iterator[Panel]:
    found = Panel.open(Settings(home=str(tmp_path / "home"), interval_s=0.05))
    yield found
    for deployment in found.deployments():
        for attempt in found.deployment(deployment.id).attempts:
            process.kill(None, f"{deployment.id}/{attempt.number}")
    found.close()


@pytest.fixture
def supervisor(panel: Panel) -> Iterator[Supervisor]:
    found = Supervisor(panel.settings, panel.database, policy=QUICK, command=stand_in)
    yield found
    found.close()


Until = Callable[[str, Callable[[Deployment], bool]], Deployment]


@pytest.fixture
def until(panel: Panel, supervisor: Supervisor) -> Until:
    """Let the supervisor look until a deployment is as wanted; fail after half a minute."""

    def wait(id: str, is_so: Callable[[Deployment], bool]) -> Deployment:
        deadline = time.monotonic() + 30
        while True:
            supervisor.look()
            deployment = panel.deployment(id)
            if is_so(deployment):
                return deployment
            assert time.monotonic() < deadline, (deployment.state, panel.events(id))
            time.sleep(0.03)

    return wait


def launch(panel: Panel, model: Path, behave: str, port: int | None = None) -> str:
    plan = panel.plan(str(model), name=behave, precision="float32", port=port)
    return panel.launch(plan, actor="tester").id


def in_state(*states: State) -> Callable[[Deployment], bool]:
    return lambda deployment: deployment.state in states


def processes_of(id: str) -> list[int]:
    """Every process that belongs to the deployment, as the system tells."""
    found: list[int] = []
    for candidate in psutil.process_iter():
        try:
            marker = candidate.environ().get(MARKER, "")
            if marker.startswith(f"{id}/") and candidate.status() != psutil.STATUS_ZOMBIE:
                found.append(candidate.pid)
        except psutil.Error:
            continue
    return found


def kinds(panel: Panel, id: str) -> list[str]:
    return [event.kind for event in panel.events(id)]


def test_a_deployment_becomes_ready_with_every_stage_measured(
    panel: Panel, until: Until, model: Path
) -> None:
    ready = until(launch(panel, model, "ok"), in_state(State.READY))
    (attempt,) = ready.attempts
    assert all(stage.status is StageStatus.DONE for stage in attempt.stages), attempt.stages
    assert attempt.measured is not None
    assert attempt.measured["memory"]["peak_bytes"] == 2000
    assert attempt.measured["first_token_s"] > 0
    assert attempt.environment is not None
    assert attempt.environment["packages"]["torch"]
    with panel.client(ready) as client:
        assert client.models() == ["ok"]
    assert any("answered" in line.text for line in panel.logs(ready.id))


def test_stop_leaves_no_process_and_keeps_the_history(
    panel: Panel, until: Until, model: Path
) -> None:
    id = launch(panel, model, "ok")
    ready = until(id, in_state(State.READY))
    panel.stop(id, actor="tester")
    stopped = until(id, in_state(State.STOPPED))
    assert processes_of(id) == []
    assert stopped.endpoint is None
    assert stopped.attempts[0].outcome is Outcome.STOPPED
    assert stopped.attempts[0].exit_code == 0
    assert stopped.attempts[0].pid == ready.attempts[0].pid


def test_an_engine_that_ignores_sigterm_is_killed_with_its_children(
    panel: Panel, until: Until, model: Path
) -> None:
    id = launch(panel, model, "deaf")
    until(id, in_state(State.READY))
    assert len(processes_of(id)) == 2
    panel.stop(id, actor="tester")
    stopped = until(id, in_state(State.STOPPED))
    assert processes_of(id) == []
    assert stopped.attempts[0].exit_code == -signal.SIGKILL


def test_a_killed_engine_is_started_again_and_both_attempts_are_kept(
    panel: Panel, until: Until, model: Path
) -> None:
    id = launch(panel, model, "ok")
    first = until(id, in_state(State.READY)).attempts[0]
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    again = until(id, lambda d: d.state is State.READY and len(d.attempts) == 2)
    crashed, running = again.attempts
    assert (crashed.outcome, crashed.exit_code) == (Outcome.CRASHED, -9)
    assert crashed.cause is not None
    assert "signal 9" in crashed.cause["message"]
    assert running.pid != first.pid
    assert again.restarts == 1


def test_a_crash_loop_ends_as_failed_with_its_cause(
    panel: Panel, until: Until, model: Path
) -> None:
    id = launch(panel, model, "crash_early")
    failed = until(id, in_state(State.FAILED))
    assert [a.outcome for a in failed.attempts] == [Outcome.FAILED] * 3
    cause = failed.attempts[-1].cause
    assert cause is not None
    assert cause["message"] == "The engine exited with code 1."
    assert "    ValueError: 7" in cause["evidence"]
    assert processes_of(id) == []


def test_five_crashes_of_a_ready_engine_end_as_failed(
    panel: Panel, until: Until, model: Path
) -> None:
    id = launch(panel, model, "ok")
    for number in range(1, 6):
        ready = until(id, lambda d, n=number: d.state is State.READY and len(d.attempts) == n)
        pid = ready.attempts[-1].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    failed = until(id, in_state(State.FAILED))
    assert [a.outcome for a in failed.attempts] == [Outcome.CRASHED] * 5


def test_a_wrong_option_is_not_tried_twice(panel: Panel, until: Until, model: Path) -> None:
    failed = until(launch(panel, model, "bad_config"), in_state(State.FAILED))
    (attempt,) = failed.attempts
    assert attempt.exit_code == 2
    assert attempt.cause is not None
    assert attempt.cause["code"] == "ConfigError"
    assert attempt.cause["fix"] == "Choose a number."


def test_a_stage_past_its_deadline_is_ended_with_the_stage_named(panel: Panel, model: Path) -> None:
    policy = Policy(
        deadlines_s={**DEADLINES_S, StageName.LOAD: 0.2}, never_ready_attempts=1, stop_grace_s=0.5
    )
    supervisor = Supervisor(panel.settings, panel.database, policy=policy, command=stand_in)
    id = launch(panel, model, "stuck")
    deadline = time.monotonic() + 30
    while panel.deployment(id).state is not State.FAILED:
        assert time.monotonic() < deadline
        supervisor.look()
        time.sleep(0.03)
    supervisor.close()
    cause = panel.deployment(id).attempts[0].cause
    assert cause is not None
    assert cause["code"] == "deadline"
    assert "load" in cause["message"]
    assert processes_of(id) == []


def test_a_port_in_use_is_refused_at_once(panel: Panel, model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(PortInUse, match=f"Port {port} on 127.0.0.1 is in use by"):
            launch(panel, model, "ok", port)
    assert panel.deployments() == []


def test_a_port_taken_after_asking_fails_in_preflight(
    panel: Panel, until: Until, model: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    id = launch(panel, model, "ok", port)
    with socket.create_server(("127.0.0.1", port)):
        failed = until(id, in_state(State.FAILED))
    cause = failed.attempts[0].cause
    assert cause is not None
    assert cause["code"] == "port_in_use"
    assert str(os.getpid()) in cause["message"]


def test_a_model_folder_damaged_after_asking_fails_with_the_file_named(
    panel: Panel, until: Until, model: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in model.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    id = launch(panel, copy, "ok")
    (copy / "config.json").unlink()
    failed = until(id, in_state(State.FAILED))
    cause = failed.attempts[0].cause
    assert cause is not None
    assert cause["code"] == "model_folder"


def test_a_key_that_is_gone_fails_with_what_to_do(panel: Panel, until: Until, model: Path) -> None:
    id = launch(panel, model, "ok")
    Path(panel.deployment(id).api_key_file or "").unlink()
    failed = until(id, in_state(State.FAILED))
    (attempt,) = failed.attempts
    cause = attempt.cause
    assert cause is not None
    assert "API key" in cause["message"]
    assert "Redeploy" in cause["fix"]
    assert processes_of(id) == []


@pytest.mark.timeout(60)
def test_a_stopped_process_is_noticed_within_ten_seconds_and_comes_back(
    panel: Panel, until: Until, model: Path
) -> None:
    id = launch(panel, model, "ok")
    pid = until(id, in_state(State.READY)).attempts[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    until(id, in_state(State.UNHEALTHY))
    assert time.monotonic() - began < 10
    os.kill(pid, signal.SIGCONT)
    assert until(id, in_state(State.READY)).attempts[0].pid == pid


def test_a_new_supervisor_adopts_the_engine_of_a_killed_one(
    panel: Panel, until: Until, model: Path
) -> None:
    id = launch(panel, model, "ok")
    with killed_supervisor(panel) as child:
        wait_for_state(panel, id, State.READY)
        child.kill()
        child.wait()
    pid = panel.deployment(id).attempts[0].pid
    adopted = until(id, lambda _: "adopted" in kinds(panel, id))
    assert adopted.state is State.READY
    assert [attempt.pid for attempt in adopted.attempts] == [pid]
    panel.stop(id, actor="tester")
    until(id, in_state(State.STOPPED))
    assert processes_of(id) == []


def test_an_engine_that_was_never_written_down_is_found_by_its_marker(
    panel: Panel, until: Until, model: Path
) -> None:
    """As after kill -9 between starting the engine and storing its pid."""
    id = launch(panel, model, "ok")
    ready = until(id, lambda d: bool(d.attempts) and d.attempts[0].pid is not None)
    attempt = ready.attempts[0]
    with panel.database.begin() as session:
        attempts.update(session, attempt.id, pid=None, pid_started_at=None)
    again = until(id, in_state(State.READY))
    assert [a.pid for a in again.attempts] == [attempt.pid]
    assert processes_of(id) == [attempt.pid]


def test_an_engine_that_died_while_nobody_watched_is_started_again(
    panel: Panel, until: Until, model: Path
) -> None:
    id = launch(panel, model, "ok")
    with killed_supervisor(panel) as child:
        wait_for_state(panel, id, State.READY)
        child.kill()
        child.wait()
    pid = panel.deployment(id).attempts[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    again = until(id, lambda d: d.state is State.READY and len(d.attempts) == 2)
    cause = again.attempts[0].cause
    assert cause is not None
    assert "no supervisor was watching" in cause["message"]


def test_preparing_dies_with_its_supervisor_and_is_begun_again(
    panel: Panel, until: Until, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The model's folder lies behind a pipe, so that preparing takes as long as we want."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in model.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    id = launch(panel, copy, "ok")
    with killed_supervisor(panel) as child:
        wait_for_stage(panel, id, StageName.PREFLIGHT)
        weights = (copy / "model.safetensors").read_bytes()
        (copy / "model.safetensors").unlink()
        os.mkfifo(copy / "model.safetensors")
        deadline = time.monotonic() + 20
        while not processes_of(id):
            assert time.monotonic() < deadline, panel.events(id)
            time.sleep(0.02)
        child.kill()
        child.wait()
    deadline = time.monotonic() + 5
    while processes_of(id):
        assert time.monotonic() < deadline, "preparing outlived its supervisor"
        time.sleep(0.02)
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors").write_bytes(weights)
    ready = until(id, in_state(State.READY))
    assert len(ready.attempts) == 1, "the same attempt goes on"


def test_a_pid_that_was_given_out_again_is_left_alone(
    panel: Panel, until: Until, model: Path
) -> None:
    id = launch(panel, model, "ok")
    attempt = until(id, in_state(State.READY)).attempts[0]
    process.kill(None, f"{id}/1")
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        with panel.database.begin() as session:
            attempts.update(session, attempt.id, pid=stranger.pid)
        until(id, lambda d: len(d.attempts) == 2)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


# --- a supervisor in its own process ----------------------------------------------------------


def killed_supervisor(panel: Panel) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **panel.settings.child_environment()}
    command = [sys.executable, "-m", "tests.contract.run_supervisor"]
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)


def wait_for_stage(panel: Panel, id: str, name: StageName) -> None:
    """Until that stage is done."""
    deadline = time.monotonic() + 30
    while True:
        stages = [s for a in panel.deployment(id).attempts for s in a.stages if s.name is name]
        if any(stage.status is StageStatus.DONE for stage in stages):
            return
        assert time.monotonic() < deadline, panel.events(id)
        time.sleep(0.005)


def wait_for_state(panel: Panel, id: str, state: State) -> None:
    deadline = time.monotonic() + 30
    while panel.deployment(id).state is not state:
        assert time.monotonic() < deadline, panel.events(id)
        time.sleep(0.05)
