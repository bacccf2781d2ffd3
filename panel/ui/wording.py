"""How numbers, times and states are said: units, local times, words and colours of a state."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import streamlit as st
from babel.dates import format_datetime, format_time, format_timedelta
from babel.numbers import format_decimal, format_percent

from db.models import StageName, State
from panel.sizing.fit import Verdict
from panel.ui.i18n import N_, _, babel_locale

MOMENT = "yyyy-MM-dd HH:mm:ss"
GIB = 1024**3
KIB = 1024


@dataclass(frozen=True)
class Word:
    """A state as a badge shows it. `text` is untranslated."""

    text: str
    color: str
    icon: str


STATES: dict[State, Word] = {
    State.PENDING: Word(N_("Waiting"), "gray", ":material/schedule:"),
    State.PREPARING: Word(N_("Preparing"), "blue", ":material/downloading:"),
    State.STARTING: Word(N_("Starting"), "blue", ":material/rocket_launch:"),
    State.READY: Word(N_("Ready"), "green", ":material/check_circle:"),
    State.UNHEALTHY: Word(N_("Not answering"), "orange", ":material/heart_broken:"),
    State.BACKOFF: Word(N_("Starting again soon"), "orange", ":material/replay:"),
    State.STOPPING: Word(N_("Stopping"), "gray", ":material/stop_circle:"),
    State.STOPPED: Word(N_("Stopped"), "gray", ":material/stop_circle:"),
    State.FAILED: Word(N_("Failed"), "red", ":material/error:"),
}
VERDICTS: dict[Verdict, Word] = {
    Verdict.FITS: Word(N_("Fits"), "green", ":material/check_circle:"),
    Verdict.TIGHT: Word(N_("Tight"), "orange", ":material/warning:"),
    Verdict.TOO_LARGE: Word(N_("Too large"), "red", ":material/block:"),
}
STAGES: dict[StageName, str] = {
    StageName.PREFLIGHT: N_("Check the machine"),
    StageName.DOWNLOAD: N_("Get the model"),
    StageName.START: N_("Start the engine"),
    StageName.LOAD: N_("Load the weights"),
    StageName.WARM_UP: N_("Warm up"),
    StageName.FIRST_TOKEN: N_("First token"),
}


SHORT = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def short_precision(precision: str) -> str:
    """`bf16` for bfloat16, as badges have little room."""
    return SHORT.get(precision, precision)


def gib(num_bytes: float, digits: int = 1) -> str:
    """`14.2 GiB`; amounts below a tenth are given in MiB."""
    if 0 < abs(num_bytes) < 0.1 * GIB:
        return f"{number(num_bytes / 1024**2, 0)} MiB"
    return f"{number(num_bytes / GIB, digits)} GiB"


def kib(num_bytes: float) -> str:
    return f"{number(num_bytes / KIB, 0)} KiB"


def number(value: float, digits: int = 0) -> str:
    """A number with the language's separators."""
    pattern = "#,##0" + ("." + "0" * digits if digits else "")
    return format_decimal(value, format=pattern, locale=babel_locale())


def percent(share: float) -> str:
    return format_percent(share, locale=babel_locale())


def tokens(count: int) -> str:
    """`4,096`: written out everywhere, so that a context and a count of tokens can be compared."""
    return number(count)


def billions(num_params: int) -> str:
    """`7.6 B` or `135 M` parameters."""
    if num_params >= 1e9:
        return f"{number(num_params / 1e9, 1)} B"
    return f"{number(num_params / 1e6)} M"


def duration(seconds: float | None) -> str:
    """`0.4 s`, `12 s`, `3 min 5 s`, `2 h 7 min`, `3 d 4 h`; a dash where there is none."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return _("{s} s", s=number(max(seconds, 0), 1))
    if seconds < 90:
        return _("{s} s", s=number(seconds))
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return _("{m} min {s} s", m=minutes, s=rest)
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return _("{h} h {m} min", h=hours, m=minutes)
    return _("{d} d {h} h", d=hours // 24, h=hours % 24)


def milliseconds(seconds: float | None) -> str:
    return (
        "–" if seconds is None else _("{n} ms", n=number(seconds * 1000, 0 if seconds > 0.1 else 1))
    )


def ago(at: datetime) -> str:
    """`3 minutes ago`."""
    since = at - datetime.now(UTC)
    return format_timedelta(since, add_direction=True, locale=babel_locale())


def zone() -> ZoneInfo:
    """The reader's time zone as the browser tells it, else UTC."""
    try:
        return ZoneInfo(st.context.timezone or "UTC")
    except (ZoneInfoNotFoundError, ValueError):
        return ZoneInfo("UTC")


def moment(at: datetime | None) -> str:
    """`2026-11-22 19:30:05` in the reader's zone: the same in every language and on every page."""
    if at is None:
        return "–"
    return format_datetime(at, format=MOMENT, tzinfo=zone(), locale=babel_locale())


def clock(at: datetime) -> str:
    return format_time(at, format="HH:mm:ss", tzinfo=zone(), locale=babel_locale())


def badge(word: Word, text: str | None = None, help: str | None = None) -> None:
    """Draw a state's badge; text stands in for the state's own word."""
    st.badge(text or _(word.text), icon=word.icon, color=word.color, help=help)  # type: ignore[arg-type]  # one of Streamlit's colours
