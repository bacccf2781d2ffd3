"""Why an attempt ended: the cause, its evidence in the log, and the fix as a button."""

from __future__ import annotations

import streamlit as st

from db.models import Attempt, Deployment
from panel.runtimes.plan import Plan
from panel.ui.actor import actor
from panel.ui.i18n import _
from panel.ui.opened import opened_panel
from panel.ui.problems import show_told, shown

CURED_BY_PORT = frozenset({"port_in_use"})


def draw_cause(attempt: Attempt) -> None:
    """What happened and what to do."""
    cause = attempt.cause or {}
    if not cause.get("message"):
        st.error(_("No reason was recorded."), title=_("The start failed"), icon=":material/error:")
        return
    show_told(cause.get("code", ""), cause["message"], cause.get("fix", ""))


def draw_evidence(attempt: Attempt) -> None:
    """The log lines that show the cause."""
    evidence = (attempt.cause or {}).get("evidence")
    if evidence:
        with st.expander(_("Evidence in the log"), expanded=True, icon=":material/search:"):
            st.code("\n".join(evidence), language=None, wrap_lines=True)


def draw_try_again(deployment: Deployment, *, key: str) -> str | None:
    """Buttons that ask for a new deployment; gives its id when one was asked for."""
    cause = deployment.last_attempt.cause if deployment.last_attempt else None
    needs_port = (cause or {}).get("code") in CURED_BY_PORT
    with st.container(horizontal=True, gap="small", width="content"):
        again = st.button(
            _("Try again"), key=f"again_{key}", icon=":material/replay:", type="primary"
        )
        on_free_port = needs_port and st.button(
            _("Use a free port"), key=f"free_port_{key}", icon=":material/auto_fix_high:"
        )
    with shown():
        if on_free_port:
            plan = Plan.from_dict(deployment.plan).with_port(None)
            return opened_panel().launch(plan, actor=actor()).id
        if again:
            return opened_panel().redeploy(deployment.id, actor=actor()).id
    return None
