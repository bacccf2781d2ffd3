"""The history: filters that live in the address, and a table with one row a deployment."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from db.models import Deployment, State, utc_now
from panel.ui import address
from panel.ui.i18n import _
from panel.ui.opened import opened_panel
from panel.ui.progress import time_to_ready_s
from panel.ui.wording import STATES, duration, zone

ROW_PX = 38
ROWS_SHOWN = 12
TEXT, STATE = "filter_text", "filter_states"


def draw() -> None:
    text, states = draw_filters()
    found = opened_panel().deployments(text=text, states=states or None)
    if not found:
        draw_no_match()
        return
    rows = [row_of(deployment) for deployment in found]
    ids = [deployment.id for deployment in found]
    st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        height=ROW_PX * (min(len(rows), ROWS_SHOWN) + 1) + 2,
        row_height=ROW_PX,
        key="history",
        alt=_("Deployments"),
        column_config=columns(ids),
    )


def draw_filters() -> tuple[str | None, list[State]]:
    """Search box and status pills; both are in the address under language-neutral names."""
    known = {state.value for state in State}
    given = [State(value) for value in address.several("state") if value in known]
    st.session_state[TEXT] = address.text("q") or ""
    st.session_state[STATE] = given
    with st.container(horizontal=True, vertical_alignment="center"):
        st.text_input(
            _("Search"),
            key=TEXT,
            type="search",
            placeholder=_("Model, id or source"),
            icon=":material/search:",
            label_visibility="collapsed",
            width=300,
            on_change=lambda: address.put(q=st.session_state[TEXT]),
        )
        st.pills(
            _("Status"),
            [State.READY, State.STARTING, State.STOPPED, State.FAILED],
            format_func=lambda state: _(STATES[state].text),
            selection_mode="multi",
            key=STATE,
            label_visibility="collapsed",
            on_change=lambda: address.put(state=[s.value for s in st.session_state[STATE]]),
        )
    return address.text("q"), given


def row_of(deployment: Deployment) -> dict[str, Any]:
    attempt = deployment.last_attempt
    up_s = None
    if attempt and attempt.ready_at:
        up_s = ((attempt.ended_at or utc_now()) - attempt.ready_at).total_seconds()
    return {
        "open": ":material/open_in_full:",
        "state": [_(STATES[deployment.state].text)],
        "id": deployment.id,
        "model": deployment.name,
        "precision": deployment.plan.get("precision"),
        "created": deployment.created_at.astimezone(zone()).replace(tzinfo=None),
        "ready": duration(time_to_ready_s(attempt)),
        "up": duration(up_s),
    }


def columns(ids: list[str]) -> dict[str, Any]:
    def opened() -> None:
        address.put(id=ids[st.session_state["history_button"].row])

    config = st.column_config
    return {
        "open": config.ButtonColumn(
            "", key="history_button", on_click=opened, type="tertiary", width=50
        ),
        "state": config.MultiselectColumn(
            _("Status"),
            options=[_(word.text) for word in STATES.values()],
            color=[word.color for word in STATES.values()],  # type: ignore[arg-type]  # Streamlit's colours
            width=120,
        ),
        "id": config.TextColumn("ID", width=80),
        "model": config.TextColumn(_("Model"), width=190),
        "precision": config.TextColumn(_("Precision"), width=80),
        "created": config.DatetimeColumn(_("Asked for"), format="YYYY-MM-DD HH:mm:ss", width=150),
        "ready": config.TextColumn(_("Time to ready"), width=100),
        "up": config.TextColumn(_("Uptime"), width=100),
    }


def draw_no_match() -> None:
    def clear() -> None:
        address.put(q=None, state=None)

    with st.container(border=True, horizontal_alignment="center"):
        st.space("small")
        title = _("No deployment matches")
        st.markdown(f"### :gray[:material/search_off:] {title}", text_alignment="center")
        st.button(_("Clear the filters"), key="clear_filters", on_click=clear)
        st.space("small")
