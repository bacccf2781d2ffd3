"""From bytes in a log file to lines with time and level, whatever a program writes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panel.supervisor import logtail
from panel.supervisor.causes import explain_exit, fatal_cause
from panel.supervisor.logtail import Head, parse, read, split

START = Head(datetime(2026, 1, 1, tzinfo=UTC))
LINE = "2026-11-22T17:48:01.123Z WARNING engine.load 12 of 30 layers"


def texts(path: Path, offset: int = 0, *, is_final: bool = False) -> tuple[list[str], int]:
    tail = read(path, offset, START, source="engine", is_final=is_final)
    return [line.text for line in tail.lines], tail.offset


def test_time_level_and_text_are_taken_apart() -> None:
    (line,), _ = parse([LINE], START, "engine")
    assert line.at == datetime(2026, 11, 22, 17, 48, 1, 123000, tzinfo=UTC)
    assert (line.level, line.source) == ("warning", "engine")
    assert line.text == "engine.load 12 of 30 layers"


def test_a_traceback_belongs_to_the_line_above_it() -> None:
    lines, head = parse([LINE.replace("WARNING", "ERROR"), "    Traceback", "    E: 7"], START, "e")
    assert [line.level for line in lines] == ["error"] * 3
    assert len({line.at for line in lines}) == 1
    (later,), _ = parse(["    more of it, one look later"], head, "e")
    assert later.level == "error"


def test_an_unfinished_line_waits_for_its_rest(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("one\ntw")
    found, offset = texts(path)
    assert (found, offset) == (["one"], 4)
    path.write_text("one\ntwo\n")
    assert texts(path, offset) == (["two"], 8)


def test_the_last_words_of_an_ended_program_need_no_line_break(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("one\nKilled")
    assert texts(path, is_final=True) == (["one", "Killed"], 10)


def test_a_missing_file_has_no_lines(tmp_path: Path) -> None:
    assert texts(tmp_path / "none") == ([], 0)


def test_of_a_progress_line_only_the_last_state_stays() -> None:
    assert split(b"10%\r50%\r100%\r\n") == ["100%"]


def test_a_line_longer_than_one_read_does_not_stop_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logtail, "READ_BYTES", 8)
    path = tmp_path / "log"
    path.write_text("0123456789abcdef\nnext\n")
    found, offset = texts(path)
    assert (found, offset) == (["01234567"], 8)


@given(st.binary(max_size=200), st.integers(1, 50))
def test_no_byte_is_lost_or_read_twice_however_it_arrives(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, step: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    at_once, offset = [], 0
    for end in range(step, len(data) + step, step):
        path.write_bytes(data[:end])
        found, offset = texts(path, offset)
        at_once += found
    path.write_bytes(data)
    found, offset = texts(path, offset, is_final=True)
    assert offset == len(data)
    assert at_once + found == [text for text in split(data) if text]


def test_a_fatal_line_tells_the_cause() -> None:
    text = 'engine.fatal {"code": "ModelTooLarge", "message": "too big", "fix": "int8"}'
    cause = fatal_cause(text)
    assert cause is not None
    assert (cause.code, cause.message, cause.fix) == ("ModelTooLarge", "too big", "int8")
    assert fatal_cause("engine.load ok") is None


def test_a_fatal_line_that_is_no_json_is_still_the_cause() -> None:
    cause = fatal_cause("engine.fatal half a li")
    assert cause is not None
    assert cause.message == "half a li"


@pytest.mark.parametrize(
    ("code", "is_permanent", "words"),
    [
        (1, False, "exited with code 1"),
        (2, True, "exited with code 2"),
        (-9, False, "signal 9 (SIGKILL): perhaps the machine ran out of memory"),
        (-11, False, "signal 11 (SIGSEGV)."),
        (None, False, "no supervisor was watching"),
    ],
)
def test_an_exit_code_is_put_into_words(code: int | None, is_permanent: bool, words: str) -> None:
    exit = explain_exit(code, ["line"])
    assert words in exit.cause.message
    assert exit.is_permanent is is_permanent
    assert exit.cause.evidence == ("line",)


def test_a_fatal_option_error_is_permanent_though_nobody_saw_the_exit_code() -> None:
    fatal = 'engine.fatal {"code": "ConfigError", "message": "m", "fix": "f"}'
    assert explain_exit(None, ["before", fatal]).is_permanent
