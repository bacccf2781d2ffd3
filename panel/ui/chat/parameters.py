"""Which deployment answers, and how it samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from db.models import Chat, Deployment
from panel.ui import address
from panel.ui.i18n import _

SYSTEM, TEMPERATURE, TOP_P = "chat_system", "chat_temperature", "chat_top_p"
MAX_TOKENS, SEED = "chat_max_tokens", "chat_seed"
DEFAULTS: dict[str, Any] = {
    SYSTEM: "You are a helpful assistant.",
    TEMPERATURE: 0.2,  # a small model rambles above that
    TOP_P: 0.9,
    MAX_TOKENS: 256,
    SEED: None,
}


def draw(
    deployment: Deployment, deployments: Sequence[Deployment], chat: Chat | None
) -> dict[str, Any]:
    """Draw the widgets; gives the sampling fields of the next request."""
    for key, value in DEFAULTS.items():
        st.session_state.setdefault(key, value)
    with st.container(border=True):
        _draw_deployment(deployment, deployments)
        _draw_system_prompt(chat)
        keep: dict[str, Any] = {"persist_state": "session", "on_change": "ignore"}
        st.slider(_("Temperature"), 0.0, 2.0, step=0.05, key=TEMPERATURE, **keep)
        st.slider("top_p", 0.05, 1.0, step=0.01, key=TOP_P, **keep)
        limit = max(16, int(deployment.plan["context_tokens"]))
        st.session_state[MAX_TOKENS] = min(st.session_state[MAX_TOKENS], limit)
        st.slider(_("Max tokens"), 16, limit, step=16, key=MAX_TOKENS, **keep)
        st.number_input(_("Seed"), min_value=0, step=1, key=SEED, placeholder=_("random"), **keep)
    return sampling()


def _draw_deployment(deployment: Deployment, deployments: Sequence[Deployment]) -> None:
    key = "chat_deployment"
    ids = [d.id for d in deployments]
    names = {d.id: f"{d.name} · {d.id}" for d in deployments}
    st.session_state[key] = deployment.id
    st.selectbox(
        _("Deployment"),
        ids,
        format_func=lambda id: names[id],
        key=key,
        on_change=lambda: address.put(deployment=st.session_state[key]),
    )


def _draw_system_prompt(chat: Chat | None) -> None:
    """A chat that has begun keeps the system prompt it began with."""
    if chat:
        st.text_area(
            _("System prompt"),
            chat.system_prompt,
            height=90,
            disabled=True,
            key=f"system_of_{chat.id}",
            help=_(
                "A chat keeps the system prompt that it began with; start a new chat to change it."
            ),
        )
        return
    st.text_area(
        _("System prompt"), key=SYSTEM, height=90, persist_state="session", on_change="ignore"
    )


def sampling() -> dict[str, Any]:
    state = st.session_state
    values = {
        "temperature": state.get(TEMPERATURE, DEFAULTS[TEMPERATURE]),
        "top_p": state.get(TOP_P, DEFAULTS[TOP_P]),
        "max_tokens": state.get(MAX_TOKENS, DEFAULTS[MAX_TOKENS]),
        "seed": state.get(SEED),
    }
    return {name: value for name, value in values.items() if value is not None}


def request_of(deployment: Deployment) -> dict[str, object]:
    """The request that the page would send for a first message, as code to copy."""
    system = st.session_state.get(SYSTEM, DEFAULTS[SYSTEM])
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": _("Hello!")})
    return {"model": deployment.name, "messages": messages, **sampling()}
