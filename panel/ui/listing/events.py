"""What was asked for and decided, newest first."""

from __future__ import annotations

import streamlit as st

from db.models import Deployment
from panel.ui.i18n import _
from panel.ui.opened import opened_panel
from panel.ui.wording import moment

ICONS = {
    "asked": ("blue", "person"),
    "state": ("gray", "sync"),
    "stage": ("gray", "flag"),
    "adopted": ("violet", "link"),
    "restart": ("orange", "replay"),
    "gave_up": ("red", "block"),
}


def draw(deployment: Deployment) -> None:
    found = opened_panel().events(deployment.id)
    if not found:
        st.info(_("Nothing has happened yet."), icon=":material/history:")
        return
    with st.container(gap="xsmall"):
        for event in reversed(found):
            color, icon = ICONS.get(event.kind, ("gray", "circle"))
            st.markdown(
                f":{color}[:material/{icon}:] &nbsp; {event.message} &nbsp; "
                f":small[{moment(event.at)} · {event.actor}]"
            )
