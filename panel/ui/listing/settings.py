"""What was asked for and the exact command that was started."""

from __future__ import annotations

import shlex

import streamlit as st

from db.models import Attempt, Deployment
from panel.runtimes.plan import Plan
from panel.ui.command import draw_command
from panel.ui.i18n import _
from panel.ui.opened import opened_panel
from panel.ui.wording import number, tokens


def draw(deployment: Deployment) -> None:
    plan = Plan.from_dict(deployment.plan)
    st.table(rows_of(plan), border="horizontal", alt=_("Settings"))
    st.caption(_("The same from a terminal"))
    draw_command(opened_panel().command_line(plan))
    if deployment.last_attempt:
        draw_started(deployment.last_attempt)


def rows_of(plan: Plan) -> dict[str, str]:
    rows = {
        _("Model"): plan.source,
        _("Name in the API"): plan.name,
        _("Precision"): str(plan.precision),
        _("Context length"): tokens(plan.workload.context_tokens),
        _("Parallel requests"): number(plan.workload.parallel_requests),
        _("Runs as"): f"{plan.runtime} · {plan.target}",
    }
    rows.update({f"`{name}`": str(value) for name, value in plan.options.items()})
    return rows


def draw_started(attempt: Attempt) -> None:
    """The command as it was started, and the packages it ran with."""
    if attempt.argv:
        st.caption(_("What was started"))
        draw_command(shlex.join(attempt.argv["argv"]))
    if attempt.environment:
        with st.expander(_("Environment"), icon=":material/inventory_2:"):
            st.json(attempt.environment)
