"""What was asked for and decided, newest first."""

from __future__ import annotations

import streamlit as st

from db.models import Deployment, Event, State
from panel.ui.i18n import _
from panel.ui.opened import opened_panel
from panel.ui.sentences import in_words
from panel.ui.wording import STATES, moment

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
                f":{color}[:material/{icon}:] &nbsp; {words_of(event)} &nbsp; "
                f":small[{moment(event.at)} · {event.actor}]"
            )


def words_of(event: Event) -> str:
    """What happened, in the words that the pages have for states."""
    change = event.data or {}
    if event.kind != "state" or not {"from", "to"} <= change.keys():
        return in_words(event.message)
    before, after = (_(STATES[State(change[end])].text) for end in ("from", "to"))
    told = "" if event.message == f"{change['from']} → {change['to']}" else event.message
    return f"{before} → **{after}**" + (f": {in_words(told)}" if told else "")
