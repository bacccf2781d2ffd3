"""The log format that the panel reads."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import warnings
from collections.abc import Iterator

import pytest

from engine import logs
from engine.errors import ModelTooLarge

LINE = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (DEBUG|INFO|WARNING|ERROR) (\S+) (.*)$")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level, logging.getLogger("engine").level, sys.excepthook)
    stream = io.StringIO()
    logs.setup("info", stream)
    yield stream
    logging.captureWarnings(False)
    root.handlers[:], engine_level = before[0], before[2]
    root.setLevel(before[1])
    logging.getLogger("engine").setLevel(engine_level)
    sys.excepthook = before[3]


def test_a_line_has_time_level_logger_and_message(stream: io.StringIO) -> None:
    logging.getLogger("engine.load").info("%d of %d layers", 12, 30)
    match = LINE.match(stream.getvalue().rstrip("\n"))
    assert match
    assert match.groups() == ("INFO", "engine.load", "12 of 30 layers")


def test_the_time_is_utc(stream: io.StringIO) -> None:
    record = logging.LogRecord("engine", logging.INFO, "", 0, "x", None, None)
    record.created, record.msecs = 0.0, 7.0
    assert logs.LineFormatter().format(record) == "1970-01-01T00:00:00.007Z INFO engine x"


def test_less_than_the_level_is_left_out(stream: io.StringIO) -> None:
    logging.getLogger("engine").debug("detail")
    assert stream.getvalue() == ""


def test_a_line_inside_a_request_names_it(stream: io.StringIO) -> None:
    with logs.request("r-1"):
        logging.getLogger("engine.http").info("answered")
    logging.getLogger("engine.http").info("idle")
    logging.getLogger("engine.core").info("freed", extra=logs.about("r-2"))
    texts = [line.split(" ", 3)[3] for line in stream.getvalue().splitlines()]
    assert texts == ["answered request=r-1", "idle", "freed request=r-2"]


def test_a_traceback_follows_indented_below_its_line(stream: io.StringIO) -> None:
    try:
        raise ValueError("bad\n2026-01-01T00:00:00.000Z ERROR engine.fatal forged")
    except ValueError:
        logging.getLogger("engine").exception("Step failed")
    first, *rest = stream.getvalue().splitlines()
    assert LINE.match(first)
    assert rest[0] == "    Traceback (most recent call last):"
    assert not any(LINE.match(line) for line in rest)


def test_a_fatal_error_is_one_line_of_json(stream: io.StringIO) -> None:
    logs.fatal(ModelTooLarge("Needs 14 GiB; 8 GiB are free.", fix="Choose int8."))
    match = LINE.match(stream.getvalue().rstrip("\n"))
    assert match
    assert match.group(2) == "engine.fatal"
    assert json.loads(match.group(3)) == {
        "code": "ModelTooLarge",
        "message": "Needs 14 GiB; 8 GiB are free.",
        "fix": "Choose int8.",
    }


def test_warnings_and_uncaught_exceptions_use_the_same_format(stream: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.warn("old option", UserWarning, stacklevel=1)
    error = RuntimeError("out of luck")
    sys.excepthook(RuntimeError, error, None)
    entries = [m for line in stream.getvalue().splitlines() if (m := LINE.match(line))]
    assert [m.group(2) for m in entries] == ["py.warnings", "engine"]
    assert "RuntimeError: out of luck" in stream.getvalue()
