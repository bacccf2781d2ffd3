"""The page Playground: choose a deployment, say something, see the answer come and what it cost."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from db.models import Chat, Deployment, State
from panel.errors import NotFound
from panel.ui import address
from panel.ui.chat import parameters, turns
from panel.ui.endpoint import draw_code
from panel.ui.i18n import _
from panel.ui.opened import opened_panel
from panel.ui.problems import shown
from panel.ui.wording import STATES, ago, badge

CHATS_SHOWN = 20
LOOK_EVERY_S = 1.0


def draw() -> None:
    deployments = opened_panel().deployments(states=[State.READY])
    chat = current_chat()
    deployment = current_deployment(deployments, chat)
    if deployment is None:
        draw_head(None)
        draw_no_engine(chat)
        return
    draw_head(deployment)
    main, side = st.columns([2.6, 1], gap="large")
    with side:
        sampling = parameters.draw(deployment, deployments, chat)
    prompt = st.chat_input(_("Say something to {name} …", name=deployment.name),
                           key="prompt", submit_mode="stop")  # fmt: skip
    with main:
        turns.draw(deployment, chat, prompt, sampling)


def current_chat() -> Chat | None:
    """The chat of the address; None for a new one or one that is gone."""
    id = address.text("chat")
    if id is None:
        return None
    try:
        return opened_panel().chat(id)
    except NotFound:
        address.put(chat=None)
        return None


def current_deployment(ready: Sequence[Deployment], chat: Chat | None) -> Deployment | None:
    """The one the address names, else the chat's, else the newest; None where none is ready."""
    wanted = address.text("deployment") or (chat.deployment_id if chat else None)
    return next((d for d in ready if d.id == wanted), ready[0] if ready else None)


def draw_head(deployment: Deployment | None) -> None:
    with st.container(
        horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"
    ):
        with st.container(gap="xxsmall", width="content"):
            st.title(_("Playground"))
            if deployment:
                with st.container(horizontal=True, gap="xsmall", vertical_alignment="center"):
                    st.markdown(f":small[`{deployment.endpoint}/v1`]", width="content")
                    badge(STATES[deployment.state])
        with st.container(
            horizontal=True, width="content", vertical_alignment="center", gap="small"
        ):
            draw_chats()
            if deployment:
                with st.popover(_("View code"), icon=":material/code:"):
                    draw_code(deployment, parameters.request_of(deployment), key="playground")
            st.button(
                _("New chat"),
                key="new_chat",
                icon=":material/add:",
                shortcut="Alt+N",
                on_click=lambda: address.put(chat=None),
            )


def draw_chats() -> None:
    """The chats that were used last, each a button; read when the list is opened."""
    key = "chats_open"

    def choose(id: str) -> None:
        st.session_state[key] = False
        address.put(chat=id)

    with st.popover(_("Chats"), icon=":material/forum:", key=key, on_change="rerun") as opened:
        chats = opened_panel().chats(limit=CHATS_SHOWN) if opened.open else []
        if opened.open and not chats:
            st.caption(_("Chats are kept here, also when their deployment is gone."))
        untitled = _("Untitled")
        for chat in chats:
            st.button(
                f"{chat.title or untitled} · :small[{ago(chat.updated_at)}]",
                key=f"chat_{chat.id}",
                type="tertiary",
                on_click=choose,
                args=(chat.id,),
            )


def wait_for_ready() -> None:
    """Draw the page anew as soon as somebody can be talked to."""
    with shown():
        if opened_panel().deployments(states=[State.READY], limit=1):
            st.rerun()


def draw_no_engine(chat: Chat | None) -> None:
    """Say why nobody can be talked to, and offer the way there; an old chat can still be read."""
    with st.container(border=True, horizontal_alignment="center"):
        st.space("small")
        title = _("No deployment is ready")
        st.markdown(f"### :blue[:material/forum:] {title}", text_alignment="center")
        starting = opened_panel().deployments(
            states=[State.PENDING, State.PREPARING, State.STARTING, State.BACKOFF]
        )
        if starting:
            st.markdown(_("One is starting; it can be used in a moment."), text_alignment="center")
            st.fragment(wait_for_ready, run_every=LOOK_EVERY_S)()
            if st.button(_("Watch it start"), key="watch", type="primary"):
                query = {"step": "launch", "deployment": starting[0].id}
                st.switch_page("views/setup.py", query_params=query)
        elif st.button(_("Set up a model"), key="setup", type="primary"):
            st.switch_page("views/setup.py", query_params={"step": "model"})
        st.space("small")
    if chat:
        turns.draw_past(chat)
