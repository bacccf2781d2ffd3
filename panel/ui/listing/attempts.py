"""The attempts of a deployment: a timeline and the stages of each, the newest first."""

from __future__ import annotations

import streamlit as st

from db.models import Attempt, Deployment, Outcome
from panel.ui.charts import timeline
from panel.ui.failure import draw_cause, draw_evidence
from panel.ui.i18n import N_, _
from panel.ui.opened import opened_panel
from panel.ui.problems import shown
from panel.ui.progress import spans_of, time_to_ready_s
from panel.ui.stages import LINES_SHOWN, draw_stages
from panel.ui.wording import STAGES, duration, moment

ROW_PX = 34
LOOK_EVERY_S = 1.0
OUTCOMES = {
    Outcome.STOPPED: N_("stopped as asked"),
    Outcome.FAILED: N_("failed before it was ready"),
    Outcome.CRASHED: N_("ended by itself after it was ready"),
}


def draw(deployment: Deployment) -> None:
    is_under_way = deployment.last_attempt is None or (
        deployment.last_attempt.ready_at is None and deployment.last_attempt.ended_at is None
    )
    every = LOOK_EVERY_S if is_under_way and not deployment.state.is_final else None
    st.fragment(draw_newest, run_every=every)(deployment.id)
    for attempt in deployment.attempts[-2::-1]:
        with st.expander(title_of(attempt)):
            draw_timeline(attempt)
            if attempt.cause:
                draw_cause(attempt)
                draw_evidence(attempt)


def draw_newest(id: str) -> None:
    with shown():
        panel = opened_panel()
        deployment = panel.deployment(id)
        if not deployment.attempts:
            st.info(_("No attempt has begun yet."), icon=":material/schedule:")
            return
        attempt = deployment.attempts[-1]
        st.subheader(title_of(attempt))
        left, right = st.columns(2, gap="large")
        with left:
            typical = panel.typical_durations(deployment.plan["source"])
            draw_stages(attempt, typical, panel.logs(id, limit=LINES_SHOWN))
        with right:
            draw_timeline(attempt)


def title_of(attempt: Attempt) -> str:
    parts = [_("Attempt {n}", n=attempt.number), moment(attempt.created_at)]
    if attempt.ready_at:
        parts.append(_("ready in {time}", time=duration(time_to_ready_s(attempt))))
    if attempt.outcome:
        parts.append(_(OUTCOMES[attempt.outcome]))
    return " · ".join(parts)


def draw_timeline(attempt: Attempt) -> None:
    names = {name: _(text) for name, text in STAGES.items()}
    said = {stage.name: duration(stage.duration_s) for stage in attempt.stages}
    spans = spans_of(attempt.stages, names, said)
    if not spans:
        return
    is_dark = st.context.theme.type == "dark"
    st.echarts_chart(
        timeline(spans, is_dark=is_dark, seconds_name=_("s")),
        height=ROW_PX * len(spans) + 40,
        key=f"timeline_{attempt.id}",
        alt=_("Stages of attempt {n} over time", n=attempt.number),
    )
