"""Cards of the deployments that run or are on their way, kept up to date."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import streamlit as st

from db.models import Deployment, State, utc_now
from panel.client import Health
from panel.errors import PanelError
from panel.ui.actor import actor
from panel.ui.i18n import _
from panel.ui.listing.memory import measured_memory
from panel.ui.listing.rates import Sample, rates_per_s, with_sample
from panel.ui.opened import opened_panel
from panel.ui.problems import shown
from panel.ui.progress import time_to_ready_s
from panel.ui.wording import STATES, badge, duration, gib, number

LOOK_EVERY_S = 2
CARDS_SHOWN = 20
ACTIVE = [state for state in State if not state.is_final]


def draw() -> None:
    drawn = states_now()
    st.fragment(draw_cards, run_every=LOOK_EVERY_S if drawn else None)(drawn)


def states_now() -> dict[str, State]:
    found = opened_panel().deployments(states=ACTIVE, limit=CARDS_SHOWN)
    return {deployment.id: deployment.state for deployment in found}


def draw_cards(drawn: Mapping[str, State]) -> None:
    """drawn: the states when the page was drawn; when they differ, the table below is old too."""
    with shown():
        if states_now() != drawn:
            st.rerun()
        for deployment in opened_panel().deployments(states=ACTIVE, limit=CARDS_SHOWN):
            with st.container(border=True):
                draw_head(deployment)
                if deployment.state in (State.READY, State.UNHEALTHY):
                    draw_figures(deployment)


def draw_head(deployment: Deployment) -> None:
    with st.container(
        horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"
    ):
        with st.container(gap="xxsmall", width="content"):
            with st.container(horizontal=True, gap="small", vertical_alignment="center"):
                st.markdown(
                    f"**{deployment.name}** · {deployment.plan['precision']}", width="content"
                )
                badge(STATES[deployment.state])
            st.markdown(f":small[:material/tag: {deployment.id} · {where(deployment)}]")
        draw_actions(deployment)


def where(deployment: Deployment) -> str:
    if deployment.endpoint:
        return f"{deployment.endpoint}/v1"
    return _("no address yet")


def draw_actions(deployment: Deployment) -> None:
    id = deployment.id
    with st.container(horizontal=True, width="content", gap="small"):
        if deployment.state is State.READY and st.button(
            _("Open playground"), key=f"chat_{id}", icon=":material/forum:"
        ):
            st.switch_page("views/playground.py", query_params={"deployment": id})
        if st.button(_("Details"), key=f"open_{id}", icon=":material/open_in_full:"):
            st.switch_page("views/deployments.py", query_params={"id": id})
        if st.button(_("Stop"), key=f"stop_{id}", icon=":material/stop_circle:", type="tertiary"):
            opened_panel().stop(id, actor=actor())
            st.rerun()


def draw_figures(deployment: Deployment) -> None:
    attempt = deployment.last_attempt
    ready_at = attempt.ready_at if attempt else None
    memory = measured_memory(deployment)
    health = health_of(deployment)
    with st.grid(5, min_column_width=120, gap="medium"):
        st.metric(
            _("Up for"), duration((utc_now() - ready_at).total_seconds() if ready_at else None)
        )
        st.metric(_("Time to ready"), duration(time_to_ready_s(attempt)))
        peak = memory.get("peak_bytes")
        st.metric(_("Memory"), gib(peak) if peak else "–")
        draw_load(deployment.id, health.facts if health else {})


def draw_load(id: str, facts: Mapping[str, Any]) -> None:
    """Requests and tokens a second, as this page has seen them since it was opened."""
    st.metric(
        _("Requests now"),
        number(facts["running"]) if "running" in facts else "–",
        help=_("Computed now; {n} wait", n=facts.get("waiting", 0)),
    )
    if "generated_tokens" not in facts:
        st.metric(_("Tokens per second"), "–")
        return
    key = f"samples_{id}"
    sample = Sample(time.monotonic(), facts["generated_tokens"])
    st.session_state[key] = with_sample(st.session_state.get(key, []), sample)
    rates = rates_per_s(st.session_state[key])
    st.metric(
        _("Tokens per second"),
        number(rates[-1], 1) if rates else "–",
        chart_data=rates if len(rates) > 1 else None,
        chart_type="area",
        help=_("{n} tokens since it started", n=number(facts["generated_tokens"])),
    )


def health_of(deployment: Deployment) -> Health | None:
    """What the engine says of itself now; None where it does not answer."""
    try:
        with opened_panel().client(deployment) as client:
            return client.health(timeout_s=1.0)
    except PanelError:
        return None  # the badge shows the state that the supervisor saw
