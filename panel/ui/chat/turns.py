"""The turns of a chat, and the one that is being answered.

A turn is stored before its answer streams, and its text again while it comes, so Stop, a closed tab
or a killed panel lose at most a second of it.
"""

from __future__ import annotations

import time
from typing import Any

import streamlit as st

from db.models import Chat, ChatMessage, Deployment
from panel.errors import PanelError
from panel.ui import address
from panel.ui.chat.answer import Answering, paced
from panel.ui.chat.figures import draw_figures
from panel.ui.chat.parameters import DEFAULTS, SYSTEM
from panel.ui.chat.refusal import draw_refusal
from panel.ui.i18n import _
from panel.ui.opened import opened_panel

TITLE_LENGTH = 60
USER, ASSISTANT = ":material/person:", ":material/smart_toy:"


def draw(
    deployment: Deployment, chat: Chat | None, prompt: str | None, sampling: dict[str, Any]
) -> None:
    placeholder = st.empty()
    if chat is None or not chat.messages:
        prompt = prompt or draw_empty(placeholder)
    if chat:
        draw_past(chat, deployment)
    if prompt:
        placeholder.empty()  # now, else the suggestions linger greyed under the stream
        answer(deployment, chat, prompt, sampling)


def draw_empty(placeholder: Any) -> str | None:
    """What to try; gives the suggestion that was clicked."""
    with placeholder.container(horizontal_alignment="center"):
        st.space("large")
        title = _("Try your model")
        st.markdown(f"### :blue[:material/forum:] {title}", text_alignment="center")
        st.caption(
            _("What is said here is kept in this panel's database."), text_alignment="center"
        )
        suggestions = [
            _("What is the capital of France?"),
            _("Write a haiku about a small computer"),
            _("Explain in two sentences what a KV cache is"),
        ]
        return st.pills(
            _("Suggestions"), suggestions, key="suggestion", label_visibility="collapsed"
        )


def draw_past(chat: Chat, deployment: Deployment | None = None) -> None:
    """The turns so far. deployment: the one that answers; None where none does."""
    id = deployment.id if deployment else None
    for message in chat.messages:
        draw_message(message, id if message is chat.messages[-1] else None)


def draw_message(message: ChatMessage, deployment_id: str | None) -> None:
    if message.role == "user":
        with st.chat_message("user", avatar=USER):
            st.markdown(message.content)
        return
    with st.chat_message("assistant", avatar=ASSISTANT):
        figures = message.figures or {}
        if message.content:
            st.markdown(message.content)
        draw_figures(figures)
        if "error" in figures:
            draw_refusal(figures, deployment_id, key=f"longer_{message.id}")


def answer(
    deployment: Deployment, chat: Chat | None, prompt: str, sampling: dict[str, Any]
) -> None:
    """Store the turn, stream its answer into the page, and store what came of it."""
    panel = opened_panel()
    if chat is None:
        system = st.session_state.get(SYSTEM, DEFAULTS[SYSTEM])
        chat = panel.new_chat(deployment.id, title=prompt[:TITLE_LENGTH], system_prompt=system)
        address.put(chat=chat.id, deployment=deployment.id)
    messages = messages_of(chat, prompt)
    panel.say(chat.id, "user", prompt)
    message_id = panel.say(chat.id, "assistant", "", {"finish_reason": "interrupted"})
    with st.chat_message("user", avatar=USER):
        st.markdown(prompt)
    answering = Answering(lambda text, figures: panel.amend(message_id, text, figures))
    with st.chat_message("assistant", avatar=ASSISTANT):
        try:
            with panel.client(deployment) as client:
                deltas = client.stream(messages, **sampling)
                st.write_stream(paced(answering.collect(deltas), clock=time.monotonic))
        except PanelError as problem:
            answering.fail(problem)
        else:
            draw_figures(answering.figures)
        finally:
            answering.store()  # also when Stop or a closed tab ends the script in the middle
    if "error" in answering.figures:
        st.rerun()  # so that the reason is drawn as a stored one is, with its button


def messages_of(chat: Chat, prompt: str) -> list[dict[str, str]]:
    """The conversation as the engine gets it; answers that never came are left out."""
    messages = [{"role": "system", "content": chat.system_prompt}] if chat.system_prompt else []
    messages += [{"role": m.role, "content": m.content} for m in chat.messages if m.content]
    return [*messages, {"role": "user", "content": prompt}]
