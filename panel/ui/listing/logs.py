"""The log of a deployment: searched in the database, followed by stream, downloaded as a file."""

from __future__ import annotations

import streamlit as st

from db.models import Deployment
from panel.ui import address
from panel.ui.i18n import N_, _
from panel.ui.logview import download_url, logview, stream_url
from panel.ui.opened import opened_panel
from panel.ui.wording import number

LEVELS = {
    "error": N_("Errors"),
    "warning": N_("Warnings"),
    "info": N_("Info"),
    "debug": N_("Debug"),
}
TEXT, LEVEL = "log_text", "log_level"


def draw(deployment: Deployment) -> None:
    text, level = draw_filters()
    total = opened_panel().log_count(deployment.id)
    with st.container(
        horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"
    ):
        st.caption(_("{n} lines are kept of this deployment", n=number(total)))
        st.link_button(
            _("Download"),
            download_url(deployment.id),
            icon=":material/download:",
            type="tertiary",
        )
    logview(stream_url(deployment.id, text=text, level=level), key="log")


def draw_filters() -> tuple[str, str | None]:
    st.session_state[TEXT] = address.text("log") or ""
    st.session_state[LEVEL] = address.choice("level", LEVELS, "") or None
    with st.container(horizontal=True, vertical_alignment="center"):
        st.text_input(
            _("Search the log"),
            key=TEXT,
            type="search",
            placeholder=_("Search the log"),
            icon=":material/search:",
            label_visibility="collapsed",
            on_change=lambda: address.put(log=st.session_state[TEXT]),
        )
        st.pills(
            _("Level"),
            list(LEVELS),
            format_func=lambda level: _(LEVELS[level]),
            key=LEVEL,
            label_visibility="collapsed",
            on_change=lambda: address.put(level=st.session_state[LEVEL]),
        )
    return address.text("log") or "", address.choice("level", LEVELS, "") or None
