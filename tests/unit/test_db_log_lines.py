"""Log lines are bounded, found by any text, and agree with the file's offset after any death."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql

from db import attempts, deployments, fulltext, log_lines
from db.log_lines import NewLine
from db.session import Database

NOW = datetime(2026, 11, 22, 17, 48, tzinfo=UTC)


class Log:
    """One deployment with one attempt, and what the tests do with its lines."""

    def __init__(self, database: Database) -> None:
        self.database = database
        with database.begin() as s:
            self.id = deployments.create(
                s, name="n", plan={}, machine_id=None, predicted=None, actor="a"
            ).id
            self.attempt_id = attempts.begin(s, self.id, []).id

    def append(self, *texts: str, level: str = "info", keep: int = 1000) -> None:
        lines = [NewLine(NOW, level, "engine", text) for text in texts]
        with self.database.begin() as s:
            log_lines.append(s, self.id, self.attempt_id, lines, keep=keep)

    def texts(self) -> list[str]:
        with self.database.read() as s:
            return [line.text for line in log_lines.chunk(s, self.id, limit=100_000)]

    def search(self, text: str, level: str | None = None) -> list[str]:
        with self.database.read() as s:
            return [line.text for line in log_lines.search(s, text, level=level)]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path_factory.mktemp('logs')}/autoglm.db")
    opened.migrate()
    yield opened
    opened.close()


@pytest.fixture
def log(database: Database) -> Iterator[Log]:
    made = Log(database)
    yield made
    with database.begin() as s:
        while log_lines.discard(s, made.id):
            pass


def test_the_tail_is_in_order_and_goes_on_after_a_line(log: Log) -> None:
    log.append("one", "two")
    log.append("three", level="error")
    with log.database.read() as s:
        first, second = log_lines.tail(s, log.id, limit=2)
        assert (first.text, second.text) == ("two", "three")
        assert [x.text for x in log_lines.tail(s, log.id, after_id=first.id)] == ["three"]
        assert [x.text for x in log_lines.tail(s, log.id, level="error")] == ["three"]
        assert log_lines.tail(s, log.id, source="prepare") == []
        assert len(log_lines.tail(s, log.id, attempt_id=log.attempt_id)) == 3
        assert log_lines.count(s, log.id) == 3
        assert log_lines.count(s, log.id, "error") == 1


def test_only_the_newest_lines_are_kept_and_the_index_forgets_the_others(log: Log) -> None:
    for i in range(10):
        log.append(f"number {i}0", f"number {i}5", keep=5)
    assert log.texts() == ["number 75", "number 80", "number 85", "number 90", "number 95"]
    assert log.search("number 10") == []
    assert log.search("number 85") == ["number 85"]


def test_one_deployment_does_not_push_out_the_lines_of_another(log: Log) -> None:
    other = Log(log.database)
    log.append("mine", keep=3)
    other.append(*(f"theirs {i}" for i in range(50)), keep=3)
    log.append("also mine", keep=3)
    assert log.texts() == ["mine", "also mine"]
    assert len(other.texts()) == 3


def test_all_lines_are_read_in_chunks(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_lines, "_CHUNK", 7)
    written = [f"line {i}" for i in range(30)]
    log.append(*written)
    assert log.texts() == written


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("CUDA error", True),
        ("error cuda", True),  # all words, in any order
        ("uda er", True),  # the middle of words
        ("显存不足", True),
        ("存不", True),  # shorter than a trigram
        ("不足 err", True),
        ("50%", True),
        ("%", True),
        ("_", False),
        ("5_%", False),
        ('"quoted"', True),
        ('"', True),
        ("AND", False),
        ("cuda OR nothing", False),
        ("text:cuda", False),
        ("cuda*", False),
        ("cuda NOT error", False),
        ("NEAR(cuda error)", False),
        ("'; DROP TABLE log_lines; --", False),
        ("", False),
        ("  \t", False),
        ("\x00", False),
        ("\ud800", False),
    ],
)
def test_a_search_finds_the_text_as_it_stands(log: Log, text: str, found: bool) -> None:
    log.append("nothing of interest here", 'a CUDA error: 显存不足 at 50% of "quoted" memory')
    assert bool([t for t in log.search(text) if "CUDA" in t]) is found


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=30))
def test_no_text_breaks_a_search(database: Database, text: str) -> None:
    with database.read() as s:
        log_lines.search(s, text)


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=30))
def test_a_line_is_found_by_its_own_words(database: Database, text: str) -> None:
    log = Log(database)
    log.append(text)
    stored = log.texts()[0]
    if fulltext.words_of(stored):
        assert stored in log.search(stored)


def test_a_search_pages_newest_first_and_filters(log: Log) -> None:
    log.append(*(f"request {i}" for i in range(5)))
    log.append("request failed", level="error")
    with log.database.read() as s:
        first = log_lines.search(s, "request", deployment_id=log.id, limit=2)
        second = log_lines.search(s, "request", deployment_id=log.id, before_id=first[-1].id)
        assert log_lines.search(s, "request", deployment_id="d-other") == []
    assert [x.text for x in first] == ["request failed", "request 4"]
    assert [x.text for x in second] == ["request 3", "request 2", "request 1", "request 0"]
    assert log.search("request", level="error") == ["request failed"]


def test_what_a_database_refuses_is_replaced_and_long_lines_are_cut_with_a_mark(log: Log) -> None:
    log.append("a\x00b\udc80c", "x" * 20_000)
    first, second = log.texts()
    assert first == "a\ufffdb\ufffdc"
    assert second.endswith("… (3616 more characters)")


def test_databases_without_the_index_are_scanned() -> None:
    query, _ = fulltext.lines_with(["cuda", "50%"], "postgresql")
    sql = str(query.compile(dialect=postgresql.dialect()))
    assert sql.count("LIKE") == 2
    assert "fts" not in sql


def test_the_offset_is_stored_with_the_lines_or_not_at_all(log: Log) -> None:
    def append_and_fail() -> None:
        line = NewLine(NOW, "info", "engine", "text")
        with log.database.begin() as s:
            log_lines.append(s, log.id, log.attempt_id, [line], offset=99, keep=10)
            raise InterruptedError

    with pytest.raises(InterruptedError):
        append_and_fail()
    with log.database.read() as s:
        assert attempts.get(s, log.attempt_id).log_offset == 0
    assert log.texts() == []


READER = """
import sys
from datetime import UTC, datetime
from db import attempts, log_lines
from db.log_lines import NewLine
from db.session import Database

url, deployment_id, attempt_id, path = sys.argv[1:]
database = Database(url)
with open(path, "rb") as file:
    while True:
        with database.read() as s:
            offset = attempts.get(s, int(attempt_id)).log_offset
        file.seek(offset)
        data = file.read(700)
        data = data[: data.rfind(b"\\n") + 1]
        if not data:
            break
        now = datetime.now(UTC)
        lines = [NewLine(now, "info", "engine", t) for t in data.decode().splitlines()]
        with database.begin() as s:
            log_lines.append(s, deployment_id, int(attempt_id), lines,
                             offset=offset + len(data), keep=100_000)
        sys.stdout.write(".")
        sys.stdout.flush()
"""


def test_a_reader_killed_again_and_again_loses_no_line_and_doubles_none(
    log: Log, tmp_path: Path
) -> None:
    written = [f"line {i} 第{i}行" for i in range(20_000)]
    file = tmp_path / "engine.log"
    file.write_text("".join(f"{text}\n" for text in written), encoding="utf-8")
    arguments = [str(log.database.url), log.id, str(log.attempt_id), str(file)]
    kills = 0
    while True:
        reader = subprocess.Popen(
            [sys.executable, "-c", READER, *arguments], stdout=subprocess.PIPE
        )
        with reader:
            assert reader.stdout is not None
            reader.stdout.read(40 + 7 * kills if kills < 5 else -1)  # some appends have happened
            reader.kill()
        stored = log.texts()
        assert stored == written[: len(stored)]
        with log.database.read() as s:
            offset = attempts.get(s, log.attempt_id).log_offset
        assert offset == sum(len(f"{text}\n".encode()) for text in stored)
        if len(stored) == len(written):
            break
        assert reader.returncode == -signal.SIGKILL
        kills += 1
    assert kills == 5
    with log.database.begin() as s:
        s.connection().exec_driver_sql(
            "INSERT INTO log_lines_fts (log_lines_fts, rank) VALUES ('integrity-check', 1)"
        )
