"""The page Deployments: one of them when the address names it, else cards and the table."""

from __future__ import annotations

import streamlit as st

from panel.ui import address
from panel.ui.i18n import _
from panel.ui.listing import detail, running, table
from panel.ui.opened import opened_panel


def draw() -> None:
    id = address.text("id")
    if id:
        detail.draw(id)
        return
    everything = opened_panel().deployments()
    draw_head()
    if not everything:
        draw_empty()
        return
    running.draw()
    table.draw()


def draw_head() -> None:
    with st.container(
        horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"
    ):
        with st.container(gap=None, width="content"):
            st.title(_("Deployments"))
            st.caption(_("Everything that was ever started here, and what became of it."))
        if st.button(_("New deployment"), key="new", icon=":material/add:", type="primary"):
            st.switch_page("views/setup.py", query_params={"step": "model"})


def draw_empty() -> None:
    with st.container(border=True, horizontal_alignment="center"):
        st.space("small")
        title = _("Nothing was started yet")
        st.markdown(f"### :blue[:material/rocket_launch:] {title}", text_alignment="center")
        st.markdown(
            _("Start the built-in demo model: one click, no account, no GPU."),
            text_alignment="center",
        )
        if st.button(_("Set up the first one"), key="first", type="primary"):
            st.switch_page("views/setup.py", query_params={"step": "model"})
        st.space("small")
