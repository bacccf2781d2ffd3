"""Everything about one deployment: stages of each attempt, settings, events, memory, logs."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from db.models import Deployment, State
from panel.ui import address
from panel.ui.actor import actor
from panel.ui.endpoint import draw_endpoint
from panel.ui.failure import draw_cause, draw_evidence
from panel.ui.i18n import _
from panel.ui.listing import attempts, events, logs, settings
from panel.ui.listing.memory import draw_predicted_and_measured
from panel.ui.opened import opened_panel
from panel.ui.problems import shown
from panel.ui.wording import STATES, badge, moment

LOOK_EVERY_S = 1.0
TABS: dict[str, Callable[[Deployment], None]] = {
    "stages": attempts.draw,
    "logs": logs.draw,
    "settings": settings.draw,
    "events": events.draw,
    "memory": draw_predicted_and_measured,
}
ICONS = {
    "stages": ":material/timeline:",
    "logs": ":material/article:",
    "settings": ":material/tune:",
    "events": ":material/history:",
    "memory": ":material/memory:",
}


def draw(id: str) -> None:
    deployment = opened_panel().deployment(id)
    st.button(
        _("All deployments"),
        key="back",
        icon=":material/arrow_back:",
        type="tertiary",
        on_click=lambda: address.put(id=None, tab=None),
    )
    draw_head(deployment)
    watch(deployment)
    if deployment.state is State.FAILED and deployment.last_attempt:
        draw_cause(deployment.last_attempt)
        draw_evidence(deployment.last_attempt)
    if deployment.state is State.READY:
        with st.expander(_("Address and key"), icon=":material/link:"):
            draw_endpoint(deployment)
    with shown():
        TABS[draw_tabs()](deployment)


def watch(deployment: Deployment) -> None:
    """Draw the page anew when the state changes; nothing is polled once it is final."""
    if deployment.state.is_final:
        return

    def look() -> None:
        with shown():
            if opened_panel().deployment(deployment.id).state is not deployment.state:
                st.rerun()

    st.fragment(look, run_every=LOOK_EVERY_S)()


def draw_head(deployment: Deployment) -> None:
    with st.container(
        horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"
    ):
        with st.container(gap="xxsmall", width="content"):
            with st.container(horizontal=True, gap="small", vertical_alignment="center"):
                st.title(deployment.name, width="content")
                badge(STATES[deployment.state])
            st.caption(f"{deployment.id} · {moment(deployment.created_at)}")
        with st.container(horizontal=True, width="content", gap="small"):
            draw_actions(deployment)


def draw_actions(deployment: Deployment) -> None:
    panel, id = opened_panel(), deployment.id
    if deployment.state is State.READY and st.button(
        _("Open playground"), key="chat", icon=":material/forum:", type="primary"
    ):
        st.switch_page("views/playground.py", query_params={"deployment": id})
    if not deployment.state.is_final:
        is_stopping = deployment.state is State.STOPPING
        if st.button(_("Stop"), key="stop", icon=":material/stop_circle:", disabled=is_stopping):
            with shown():
                panel.stop(id, actor=actor())
                st.rerun()
        return
    if st.button(_("Redeploy"), key="redeploy", icon=":material/replay:", type="primary"):
        with shown():
            new = panel.redeploy(id, actor=actor())
            st.switch_page("views/setup.py", query_params={"step": "launch", "deployment": new.id})
    draw_delete(deployment)


def draw_delete(deployment: Deployment) -> None:
    with st.popover(_("Delete"), icon=":material/delete:", type="tertiary"):
        st.markdown(_("Its history, logs and key are removed. Chats stay."))
        if st.button(_("Delete {id}", id=deployment.id), key="delete", type="primary"):
            with shown():
                opened_panel().delete(deployment.id)
                address.put(id=None, tab=None)
                st.rerun()


def draw_tabs() -> str:
    """The tab that the address names. Only the open one is computed."""
    titles = {
        "stages": _("Stages"),
        "logs": _("Logs"),
        "settings": _("Settings"),
        "events": _("Events"),
        "memory": _("Memory"),
    }
    key = "detail_tab"
    st.session_state[key] = address.choice("tab", TABS, "stages")
    st.segmented_control(
        _("View"),
        list(TABS),
        format_func=lambda name: f"{ICONS[name]} {titles[name]}",
        key=key,
        required=True,
        label_visibility="collapsed",
        on_change=lambda: address.put(tab=st.session_state[key]),
    )
    return st.session_state[key]
