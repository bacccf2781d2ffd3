"""The stages of an attempt as a column of steps, with durations, progress and the newest lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import streamlit as st

from db.models import Attempt, LogLine, Stage, StageName, StageStatus
from panel.ui.i18n import _
from panel.ui.wording import STAGES, clock, duration

LINES_SHOWN = 12

MARKS: dict[StageStatus, Literal["running", "complete", "error"]] = {
    StageStatus.RUNNING: "running",
    StageStatus.DONE: "complete",
    StageStatus.SKIPPED: "complete",
    StageStatus.FAILED: "error",
}


def draw_stages(
    attempt: Attempt, typical: Mapping[StageName, float], lines: Sequence[LogLine]
) -> None:
    """Draw every stage once, in order. `lines` stand under the running or failed one."""
    has_failed = False
    for stage in attempt.stages:
        if stage.status is StageStatus.PENDING or has_failed:
            draw_pending(stage, {} if has_failed else typical)
            continue
        has_failed = stage.status is StageStatus.FAILED
        is_open = stage.status in (StageStatus.RUNNING, StageStatus.FAILED)
        # Not `with st.status(...)`: leaving the block would mark a running step complete.
        box = st.status(
            label_of(stage, typical), state=MARKS[stage.status], expanded=is_open, type="step"
        )
        if stage.status is StageStatus.RUNNING and stage.progress is not None:
            box.progress(min(1.0, stage.progress), text=stage.detail or None)
        elif stage.detail:
            box.markdown(stage.detail)
        if is_open and lines:
            box.code(tail_text(lines), language=None, wrap_lines=True)


def label_of(stage: Stage, typical: Mapping[StageName, float]) -> str:
    """Name, duration, and beside it what this stage usually takes."""
    name = _(STAGES[stage.name])
    if stage.status is StageStatus.SKIPPED:
        reason = _("not needed")
        return f"{name} · {reason}"
    if stage.status is StageStatus.RUNNING:
        name = f":shimmer[{name}]"
    parts = [name, duration(stage.duration_s)]
    if stage.status is StageStatus.RUNNING and stage.name in typical:
        parts.append(_("usually {time}", time=duration(typical[stage.name])))
    return " · ".join(parts)


def draw_pending(stage: Stage, typical: Mapping[StageName, float]) -> None:
    name = _(STAGES[stage.name])
    usual = ""
    if stage.name in typical:
        usual = " · " + _("usually {time}", time=duration(typical[stage.name]))
    st.markdown(f":material/radio_button_unchecked: {name}{usual}")


def tail_text(lines: Sequence[LogLine]) -> str:
    return "\n".join(f"{clock(line.at)}  {line.text}" for line in lines[-LINES_SHOWN:])
