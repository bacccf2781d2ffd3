"""A conversation that is longer than the engine's context: said in our words, with a cure."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import streamlit as st

from panel.runtimes.plan import Plan
from panel.ui.i18n import _
from panel.ui.opened import opened_panel
from panel.ui.problems import show_told, shown, title_of
from panel.ui.setup.choice import Choice
from panel.ui.wording import number

TOO_LONG = "context_length_exceeded"
_FORMS = (
    re.compile(
        r"The prompt has (?P<prompt>\d+) tokens; "
        r"this engine takes (at most )?(?P<limit>\d+)"
    ),
    re.compile(
        r"(?P<answer>\d+) tokens were asked for after a prompt of (?P<prompt>\d+) tokens; "
        r"this engine takes (?P<limit>\d+)"
    ),
)  # fmt: skip


@dataclass(frozen=True)
class TooLong:
    """Tokens. answer: those asked for, 0 where the prompt alone is too long."""

    prompt: int
    limit: int
    answer: int = 0

    @property
    def longer_context(self) -> int:
        """Twice the limit, or as often twice as the conversation needs."""
        context = 2 * self.limit
        while context < self.prompt + max(1, self.answer):
            context *= 2
        return context


def too_long(code: str, message: str) -> TooLong | None:
    """The numbers of the engine's refusal; None where it refused for another reason."""
    found = next(filter(None, (form.match(message) for form in _FORMS)), None)
    if code != TOO_LONG or found is None:
        return None
    return TooLong(**{name: int(value) for name, value in found.groupdict().items()})


def draw_refusal(figures: dict[str, Any], deployment_id: str | None, *, key: str) -> None:
    """Why there is no answer, or why it broke off, and what to do."""
    refused = too_long(figures["code"], figures["error"])
    if refused is None:
        show_told(figures["code"], figures["error"], figures["fix"])
        return
    st.error(words_of(refused), title=title_of(TOO_LONG), icon=":material/error:")
    if deployment_id is None:
        return
    label = _("Redeploy with a context of {n}", n=number(refused.longer_context))
    if st.button(label, key=key, icon=":material/expand:"):
        with shown():
            open_wizard(deployment_id, refused.longer_context)


def words_of(refused: TooLong) -> str:
    values = {"n": number(refused.prompt), "m": number(refused.limit)}
    if refused.answer:
        return _(
            "The conversation has {n} tokens and the answer may take {k}; the context length of "
            "this deployment is {m} for both. Lower “Max tokens”, or redeploy with a longer "
            "context.",
            k=number(refused.answer),
            **values,
        )
    return _(
        "The conversation has {n} tokens; the context length of this deployment is {m}. "
        "Shorten it, begin a new chat, or redeploy with a longer context.",
        **values,
    )


def open_wizard(deployment_id: str, context_tokens: int) -> None:
    """Go to the wizard with the plan of a deployment, but for its context."""
    plan = Plan.from_dict(opened_panel().deployment(deployment_id).plan)
    choice = replace(Choice.of(plan), context_tokens=context_tokens)
    st.switch_page("views/setup.py", query_params=choice.query())
