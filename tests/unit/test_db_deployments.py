"""What was asked for and what was seen is stored, found again and never mixed up."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from db import attempts, chats, deployments, events, log_lines, machines, stages, supervisors
from db.errors import NoSuchRow, StillActive
from db.log_lines import NewLine
from db.models import Deployment, Desired, Outcome, StageName, StageStatus, State
from db.session import Database

STAGES = [(StageName.PREFLIGHT, 10.0), (StageName.DOWNLOAD, 600.0), (StageName.LOAD, 120.0)]
NOW = datetime(2026, 11, 22, 17, 48, tzinfo=UTC)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/autoglm.db")
    database.migrate()
    yield database
    database.close()


def ask(db: Database, name: str = "demo", source: str = "demo") -> Deployment:
    with db.begin() as s:
        return deployments.create(
            s, name=name, plan={"source": source}, machine_id=None, predicted=None, actor="ann"
        )


def begin(db: Database, deployment_id: str) -> int:
    with db.begin() as s:
        return attempts.begin(s, deployment_id, STAGES).id


def loaded(db: Database, deployment_id: str) -> Deployment:
    with db.read() as s:
        return deployments.get(s, deployment_id)


def set_state(db: Database, deployment_id: str, state: State) -> None:
    with db.begin() as s:
        deployments.set_state(s, deployment_id, state)


def test_a_new_deployment_waits_to_run_and_says_who_asked(db: Database) -> None:
    made = ask(db)
    assert made.id.startswith("d-")
    assert (made.desired, made.state) == (Desired.RUNNING, State.PENDING)
    assert (made.attempts, made.last_attempt) == ([], None)
    with db.read() as s:
        assert [(e.kind, e.actor) for e in events.of(s, made.id)] == [("asked", "ann")]


def test_times_come_back_aware_and_in_utc(db: Database) -> None:
    assert loaded(db, ask(db).id).created_at.tzinfo is UTC


def test_a_loaded_deployment_is_readable_after_its_session(db: Database) -> None:
    made = ask(db)
    begin(db, made.id)
    begin(db, made.id)
    found = loaded(db, made.id)
    assert [a.number for a in found.attempts] == [1, 2]
    assert [stage.name for stage in found.attempts[0].stages] == [name for name, _ in STAGES]
    assert found.last_attempt is found.attempts[1]


def test_a_deployment_is_found_by_id_its_beginning_an_active_name_or_model(db: Database) -> None:
    made = ask(db, name="qwen")
    source = made.plan["source"]
    for key in (made.id, made.id[:5], made.id[2:5], "qwen", source):
        assert loaded(db, key).id == made.id


def test_a_name_given_twice_or_of_a_stopped_deployment_does_not_find_one(db: Database) -> None:
    first, second = ask(db, name="qwen"), ask(db, name="qwen")
    with pytest.raises(NoSuchRow, match="could be any of"):
        loaded(db, "qwen")
    set_state(db, first.id, State.STOPPED)
    assert loaded(db, "qwen").id == second.id
    set_state(db, second.id, State.FAILED)
    with pytest.raises(NoSuchRow, match="none of that name or model is active"):
        loaded(db, "qwen")


@pytest.mark.parametrize("key", ["", " ", "d-zzzzzz", "%", "_", "'; --"])
def test_a_key_that_means_nothing_finds_nothing(db: Database, key: str) -> None:
    ask(db)
    with pytest.raises(NoSuchRow):
        loaded(db, key)


def test_the_list_is_newest_first_and_pages_by_time(db: Database) -> None:
    made = [ask(db, name=f"n{i}").id for i in range(5)]
    with db.read() as s:
        page = deployments.find(s, limit=2)
        rest = deployments.find(s, before=page[-1].created_at)
    assert [d.id for d in (*page, *rest)] == made[::-1]


def test_the_list_holds_the_last_attempt_with_its_stages(db: Database) -> None:
    made = ask(db)
    begin(db, made.id)
    last = begin(db, made.id)
    with db.read() as s:
        (found,) = deployments.find(s)
    assert found.last_attempt is not None
    assert (found.last_attempt.id, len(found.last_attempt.stages)) == (last, 3)


@pytest.mark.parametrize("text", ["小模", "org/Qwen", "QWEN", "note 50%"])
def test_the_list_is_searched_by_name_source_and_note(db: Database, text: str) -> None:
    made = ask(db, name="小模型", source="hf:org/Qwen3-8B")
    ask(db, name="other")
    with db.begin() as s:
        deployments.set_note(s, made.id, "a note 50% done")
    with db.read() as s:
        assert [d.id for d in deployments.find(s, text=text)] == [made.id]
        assert deployments.find(s, text=text, states=[State.READY]) == []


@pytest.mark.parametrize(
    ("desired", "state", "is_due"),
    [
        (Desired.RUNNING, State.PENDING, True),
        (Desired.RUNNING, State.READY, True),
        (Desired.RUNNING, State.BACKOFF, True),
        (Desired.RUNNING, State.STOPPED, True),
        (Desired.RUNNING, State.FAILED, False),
        (Desired.STOPPED, State.READY, True),
        (Desired.STOPPED, State.STOPPING, True),
        (Desired.STOPPED, State.STOPPED, False),
        (Desired.STOPPED, State.FAILED, False),
    ],
)
def test_the_supervisor_looks_only_at_what_is_not_at_rest(
    db: Database, desired: Desired, state: State, is_due: bool
) -> None:
    made = ask(db)
    with db.begin() as s:
        deployments.set_desired(s, made.id, desired, "ann")
        deployments.set_state(s, made.id, state)
    with db.read() as s:
        assert bool(deployments.to_reconcile(s)) is is_due


def test_asking_again_for_a_failed_deployment_gives_it_a_clean_slate(db: Database) -> None:
    made = ask(db)
    with db.begin() as s:
        deployments.set_state(s, made.id, State.FAILED, restarts=3, next_attempt_at=NOW)
        again = deployments.set_desired(s, made.id, Desired.RUNNING, "bob")
    assert (again.state, again.restarts, again.next_attempt_at) == (State.PENDING, 0, None)


def test_asking_for_what_is_already_asked_for_is_no_event(db: Database) -> None:
    made = ask(db)
    for _ in range(2):
        with db.begin() as s:
            deployments.set_desired(s, made.id, Desired.STOPPED, "ann")
    with db.read() as s:
        assert [e.message for e in events.of(s, made.id)] == [
            "Asked to run demo.",
            "Asked to stop demo.",
        ]


def test_only_a_change_of_state_is_an_event_and_what_is_left_out_stays(db: Database) -> None:
    made = ask(db)
    with db.begin() as s:
        deployments.set_state(s, made.id, State.READY, "Up.", endpoint="http://x", restarts=1)
        deployments.set_state(s, made.id, State.READY)
    found = loaded(db, made.id)
    assert (found.endpoint, found.restarts) == ("http://x", 1)
    with db.read() as s:
        changes = [(e.message, e.data) for e in events.of(s, made.id) if e.kind == "state"]
    assert changes == [("Up.", {"from": "pending", "to": "ready"})]


def test_an_attempt_goes_through_its_stages(db: Database) -> None:
    made = ask(db)
    attempt_id = begin(db, made.id)
    with db.begin() as s:
        stages.start(s, attempt_id, StageName.PREFLIGHT)
        stages.finish(s, attempt_id, StageName.PREFLIGHT, "all well")
        stages.skip(s, attempt_id, StageName.DOWNLOAD, "already here")
        stages.start(s, attempt_id, StageName.LOAD)
        stages.progress(s, attempt_id, StageName.LOAD, 0.4, "12 of 30 layers")
        attempts.update(s, attempt_id, pid=17, pid_started_at=1.5, port=8080)
        attempts.mark_ready(s, attempt_id, {"kv_bytes": 5})
    with db.read() as s:
        attempt = attempts.running(s, made.id)
    assert attempt is not None
    assert (attempt.pid, attempt.port, attempt.measured) == (17, 8080, {"kv_bytes": 5})
    assert attempt.ready_at is not None
    assert [(s.status, s.progress, s.detail) for s in attempt.stages] == [
        (StageStatus.DONE, 1.0, "all well"),
        (StageStatus.SKIPPED, None, "already here"),
        (StageStatus.RUNNING, 0.4, "12 of 30 layers"),
    ]


@pytest.mark.parametrize(
    ("outcome", "status"),
    [(Outcome.FAILED, StageStatus.FAILED), (Outcome.STOPPED, StageStatus.SKIPPED)],
)
def test_the_end_of_an_attempt_closes_its_stages(
    db: Database, outcome: Outcome, status: StageStatus
) -> None:
    made = ask(db)
    attempt_id = begin(db, made.id)
    cause = {"code": "ModelTooLarge"}
    with db.begin() as s:
        stages.start(s, attempt_id, StageName.PREFLIGHT)
        attempts.end(s, attempt_id, outcome, exit_code=2, cause=cause)
        attempts.end(s, attempt_id, Outcome.CRASHED, exit_code=-9)  # too late: it has ended
    with db.read() as s:
        assert attempts.running(s, made.id) is None
        attempt = attempts.get(s, attempt_id)
    assert (attempt.outcome, attempt.exit_code, attempt.cause) == (outcome, 2, cause)
    assert [stage.status for stage in attempt.stages] == [status, *[StageStatus.SKIPPED] * 2]
    assert attempt.stages[0].ended_at == attempt.ended_at


def test_an_unknown_column_or_stage_is_refused(db: Database) -> None:
    attempt_id = begin(db, ask(db).id)
    with pytest.raises(AssertionError, match="colour"), db.begin() as s:
        attempts.update(s, attempt_id, colour="red")  # type: ignore[call-arg]  # the point
    with pytest.raises(NoSuchRow, match="warm_up"), db.begin() as s:
        stages.start(s, attempt_id, StageName.WARM_UP)


def test_typical_durations_are_medians_of_finished_stages_of_the_same_model(db: Database) -> None:
    for seconds, source in ((1, "demo"), (2, "demo"), (9, "demo"), (100, "other")):
        attempt_id = begin(db, ask(db, source=source).id)
        with db.begin() as s:
            stages.start(s, attempt_id, StageName.LOAD)
            stages.start(s, attempt_id, StageName.DOWNLOAD)  # never finished: not counted
            stages.finish(s, attempt_id, StageName.LOAD)
            load = attempts.get(s, attempt_id).stages[2]
            load.started_at, load.ended_at = NOW, NOW + timedelta(seconds=seconds)
    with db.read() as s:
        assert stages.typical_durations(s, "demo") == {StageName.LOAD: 2.0}
        assert stages.typical_durations(s, "new") == {}


def test_only_what_is_at_rest_is_deleted_and_chats_stay(db: Database) -> None:
    made, other = ask(db), ask(db)
    attempt_id = begin(db, made.id)
    line = NewLine(NOW, "info", "engine", "something to find")
    with db.begin() as s:
        log_lines.append(s, made.id, attempt_id, [line], keep=10)
        chat = chats.create(s, deployment_id=made.id)
    with pytest.raises(StillActive, match="pending"), db.begin() as s:
        deployments.delete(s, made.id)
    set_state(db, made.id, State.STOPPED)
    with db.begin() as s:
        deployments.delete(s, made.id)
    with db.read() as s:
        assert [d.id for d in deployments.find(s)] == [other.id]
        assert log_lines.search(s, "something") == []
        assert chats.get(s, chat.id).deployment_id is None
        for table in ("attempts", "stages", "log_lines"):
            assert s.connection().exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() == 0


def test_a_machine_is_remembered_once_with_its_newest_facts(db: Database) -> None:
    with db.begin() as s:
        first = machines.remember(s, fingerprint="a", hostname="h", facts={"free": 1})
        machines.remember(s, fingerprint="b", hostname="h", facts={})
        again = machines.remember(s, fingerprint="a", hostname="h", facts={"free": 2})
    with db.read() as s:
        newest = machines.newest(s)
        assert newest is not None
        assert (newest.id, newest.facts) == (first.id, {"free": 2})
        assert first.id == again.id
        with pytest.raises(NoSuchRow):
            machines.get(s, 77)


def test_a_chat_keeps_its_turns_in_order(db: Database) -> None:
    with db.begin() as s:
        old = chats.create(s, deployment_id=None, title="旧")
        chat = chats.create(s, deployment_id=None, system_prompt="Be brief.")
        chats.add_message(s, chat.id, "user", "你好")
        answer = chats.add_message(s, chat.id, "assistant", "")
        chats.set_message(s, answer, "你好!", {"ttft_s": 0.2})
        chats.retitle(s, chat.id, "Greeting")
    with db.read() as s:
        assert [c.id for c in chats.recent(s)] == [chat.id, old.id]
        found = chats.get(s, chat.id)
    assert [(m.role, m.content, m.figures) for m in found.messages] == [
        ("user", "你好", None),
        ("assistant", "你好!", {"ttft_s": 0.2}),
    ]
    with db.begin() as s:
        chats.delete(s, chat.id)
    with pytest.raises(NoSuchRow), db.read() as s:
        chats.get(s, chat.id)


def test_the_supervisor_that_beat_last_is_known(db: Database) -> None:
    with db.begin() as s:
        assert supervisors.last(s) is None
        supervisors.beat(s, 11, NOW)
        supervisors.beat(s, 12, NOW)
    with db.read() as s:
        seen = supervisors.last(s)
    assert seen is not None
    assert (seen.pid, seen.started_at) == (12, NOW)
