"""The command line against a real database in an empty home; no supervisor and no engine runs."""

from __future__ import annotations

import json
import shlex
import socket
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from db import attempts, deployments, log_lines
from db.log_lines import NewLine
from db.models import Outcome, StageName, State, utc_now
from panel.cli import app
from panel.commands import looking
from panel.deployments import Panel
from panel.runtimes.plan import Plan
from panel.settings import Settings
from panel.supervisor.lock import hold


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTOGLM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def launched(*words: str) -> str:
    """The id of a deployment that was asked for."""
    result = run("launch", "demo", "--no-wait", *words)
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def stored_plan(home: Path, id: str) -> Plan:
    panel = Panel.open(Settings(home=str(home)))
    plan = Plan.from_dict(panel.deployment(id).plan)
    panel.close()
    return plan


def fail(home: Path, id: str) -> None:
    """Let a deployment have failed, as the supervisor would write it down."""
    panel = Panel.open(Settings(home=str(home)))
    cause = {"code": "x", "message": "It broke.", "fix": "Mend it.", "evidence": ["line 7"]}
    with panel.database.begin() as session:
        attempt = attempts.begin(session, id, [(StageName.PREFLIGHT, 60.0)])
        lines = [NewLine(utc_now(), "error", "engine", f"engine.x line {i}") for i in range(3)]
        log_lines.append(session, id, attempt.id, lines, keep=1000)
        attempts.end(session, attempt.id, Outcome.FAILED, 1, cause)
        deployments.set_state(session, id, State.FAILED)
    panel.close()


def test_a_launch_is_listed_with_everything_that_was_chosen(home: Path) -> None:
    id = launched("--name", "mine", "--precision", "int8", "--option", "block-size=16")
    plan = stored_plan(home, id)
    assert (plan.name, plan.precision, plan.options) == ("mine", "int8", {"block_size": 16})
    (listed,) = json.loads(run("ls", "--json").stdout)
    assert (listed["id"], listed["state"], listed["attempts"]) == (id, "pending", [])
    assert id in run("ls").stdout


def test_the_command_line_that_is_shown_asks_for_the_same_plan(home: Path) -> None:
    first = stored_plan(home, launched("--name", "a b", "--context", "512", "--option", "seed=3"))
    words = shlex.split(first.command_line())
    assert words[0] == "autoglm"
    result = run(*words[1:], "--no-wait")
    assert stored_plan(home, result.stdout.strip()) == first


def test_the_key_is_readable_by_its_owner_only(home: Path) -> None:
    launched()
    (key,) = (home / "keys").iterdir()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    assert key.read_text().startswith("sk-")


def test_a_launch_without_a_supervisor_says_so() -> None:
    assert "autoglm up" in run("launch", "demo", "--no-wait").stderr


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["launch", "nosuch"], "neither a folder here nor a model id"),
        (["launch", "/does/not/exist"], "is not a folder"),
        (["launch", "demo", "--option", "blok_size=16"], "Unknown option blok_size"),
        (["launch", "demo", "--option", "block_size"], "has no value"),
        (["launch", "demo", "--precision", "int3"], "'int3' is no precision"),
        (["launch", "demo", "--context", "100000"], "8192"),
        (["launch", "Qwen/Qwen3-8B", "--parallel", "1024"], "GiB"),
        (["show", "d-none"], "No deployment"),
        (["chat", "hello"], "No deployment is ready"),
    ],
)
def test_bad_input_gets_one_clear_error_and_a_fix(words: list[str], error: str) -> None:
    result = run(*words)
    assert result.exit_code == 1
    assert result.stdout == ""
    first, second = result.stderr.strip().splitlines()
    assert first.startswith("error: ")
    assert error in first
    assert second.startswith("fix: ")
    assert json.loads(run("ls", "--json").stdout) == [], "nothing half-done is left"


def test_an_unknown_command_exits_with_2() -> None:
    assert run("lanch").exit_code == 2


def test_a_port_in_use_is_refused_with_its_owner() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = run("launch", "demo", "--port", str(port))
    assert result.exit_code == 1
    assert f"Port {port} on 127.0.0.1 is in use by" in result.stderr


def test_an_address_of_another_machine_is_no_port_in_use() -> None:
    result = run("launch", "demo", "--port", "8123", "--option", "host=192.0.2.1")
    assert result.exit_code == 1
    assert "Nothing can listen on 192.0.2.1" in result.stderr


def test_a_read_only_database_can_be_sized_for_and_listed_but_not_launched_in(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched()
    url = f"sqlite:///file:{home / 'autoglm.db'}?mode=ro&uri=true"
    monkeypatch.setenv("AUTOGLM_DATABASE_URL", url)
    for words in (["ls"], ["detect"], ["plan", "demo"]):
        assert run(*words).exit_code == 0, words
    refused = run("launch", "demo", "--no-wait")
    assert refused.exit_code == 1
    assert "can be read but not written" in refused.stderr
    assert len(list((home / "keys").iterdir())) == 1, "no key is left of what was refused"


def test_a_damaged_database_is_named_and_left_as_it_is(home: Path) -> None:
    launched()
    database = home / "autoglm.db"
    database.write_bytes(database.read_bytes()[:100])
    result = run("ls")
    assert result.exit_code == 1
    assert str(database) in result.stderr
    assert len(database.read_bytes()) == 100


def test_a_failure_is_shown_with_stages_cause_and_fix(home: Path) -> None:
    id = launched()
    fail(home, id)
    shown = run("show", id[:4]).stdout
    for words in ("It broke.", "Mend it.", "preflight", "exit code 1"):
        assert words in shown
    value = json.loads(run("show", id, "--json").stdout)
    assert value["attempts"][0]["cause"]["evidence"] == ["line 7"]
    assert value["events"]


def test_waiting_for_a_deployment_that_failed_exits_with_1(home: Path) -> None:
    id = launched()
    fail(home, id)
    result = run("stop", id)
    assert result.exit_code == 0, "it has ended, which is what was asked for"
    assert "Mend it." in result.stderr


def test_logs_can_be_searched_and_are_json_lines_for_programs(home: Path) -> None:
    id = launched()
    fail(home, id)
    assert len(run("logs", id).stdout.splitlines()) == 3
    (found,) = run("logs", id, "--search", "line 1").stdout.splitlines()
    assert found.endswith("engine.x line 1")
    lines = run("logs", id, "--json", "-n", "2").stdout.splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["engine.x line 1", "engine.x line 2"]


def test_a_name_that_looks_like_markup_is_shown_as_it_is(home: Path) -> None:
    id = launched("--name", "[/a]")
    for result in (run("ls"), run("show", id)):
        assert result.exit_code == 0, result.exception
        assert "[/a]" in result.stdout


def test_followed_logs_are_searched_as_well(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    id = launched()
    fail(home, id)
    looks = iter(range(2))

    def sleep(_: float) -> None:
        """Between two looks another engine line comes, which the search does not want."""
        if next(looks, None) is None:
            raise KeyboardInterrupt
        panel = Panel.open(Settings(home=str(home)))
        lines = [NewLine(utc_now(), "info", "engine", f"{word} comes") for word in ("one", "two")]
        with panel.database.begin() as session:
            log_lines.append(session, id, None, lines, keep=1000)
        panel.close()

    monkeypatch.setattr(looking.time, "sleep", sleep)
    found = run("logs", id, "--follow", "--search", "one").stdout.splitlines()
    assert [line.rpartition("    ")[2] for line in found] == ["one comes", "one comes"]


def test_the_home_folder_is_for_its_owner_only(tmp_path: Path) -> None:
    with hold(tmp_path / "home" / "up.lock", what="It", text=""):
        assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700


def test_only_what_has_ended_can_be_deleted_and_then_leaves_nothing(home: Path) -> None:
    id = launched()
    refused = run("delete", id)
    assert refused.exit_code == 1
    assert "pending" in refused.stderr
    fail(home, id)
    assert run("delete", id).exit_code == 0
    assert json.loads(run("ls", "--json").stdout) == []
    assert list((home / "keys").iterdir()) == []


def test_redeploy_asks_for_the_same_plan_again(home: Path) -> None:
    id = launched("--name", "again", "--context", "512")
    fail(home, id)
    other = run("redeploy", id, "--no-wait").stdout.strip()
    assert other != id
    assert stored_plan(home, other) == stored_plan(home, id)


def test_a_model_can_be_sized_for_a_machine_that_is_not_this_one(tmp_path: Path) -> None:
    other = tmp_path / "machine.json"
    other.write_text(run("detect", "--json").stdout)
    value = json.loads(run("plan", "demo", "--machine", str(other), "--json").stdout)
    assert set(value["fits"]) == {"float32", "bfloat16", "int8", "int4"}
    assert value["command"].startswith("autoglm launch demo ")


def test_every_option_of_engine_and_panel_is_listed() -> None:
    listed = json.loads(run("config", "--json").stdout)
    assert {"max_seq_length", "device_map"} <= {o["name"] for o in listed["engine"]}
    assert "AUTOGLM_HOME" in run("config").stdout
