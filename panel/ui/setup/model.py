"""Step 2: which model, in which precision, for which work, and whether that fits."""

from __future__ import annotations

import streamlit as st

from panel.deployments import Sizing
from panel.errors import PanelError
from panel.sizing.fit import Verdict
from panel.ui import problems
from panel.ui.actor import actor
from panel.ui.command import draw_command as draw_line
from panel.ui.i18n import _
from panel.ui.opened import opened_panel
from panel.ui.setup import hardware, memory, models, options
from panel.ui.setup.choice import Choice


def draw(choice: Choice) -> None:
    panel = opened_panel()
    hardware.draw_strip(panel.machine())
    sizing, problem = size(choice)
    left, right = st.columns([1.05, 1], gap="large")
    with left:
        st.subheader(_("Choose a model"))
        models.draw(choice, sizing)
    with right:
        st.subheader(_("Memory budget"))
        if problem:
            problems.show(problem)
            draw_buttons(choice, None)
        if sizing:
            memory.draw(choice, sizing)
            draw_command(choice, sizing)
            draw_buttons(choice, sizing)
            options.draw(choice)


def size(choice: Choice) -> tuple[Sizing | None, PanelError | None]:
    """The sizing of the chosen model, or why it cannot be sized."""
    try:
        found = opened_panel().size(
            choice.model, precision=choice.precision, workload=choice.workload
        )
    except PanelError as error:
        return None, error
    return found, None


def draw_command(choice: Choice, sizing: Sizing) -> None:
    """The command that does the same, always in view."""
    panel = opened_panel()
    with problems.shown():
        line = panel.command_line(choice.plan(panel, sizing.chosen))
        draw_line(line)


def draw_buttons(choice: Choice, sizing: Sizing | None) -> None:
    is_too_large = sizing is not None and sizing.fit.verdict is Verdict.TOO_LARGE
    with st.container(horizontal=True, horizontal_alignment="right"):
        st.button(
            _("Back"),
            key="to_hardware",
            icon=":material/arrow_back:",
            type="tertiary",
            on_click=choice.change,
            kwargs={"step": "hardware"},
        )
        forced = is_too_large and st.button(
            _("Start anyway"), key="force", icon=":material/priority_high:"
        )
        wanted = st.button(
            _("Launch"),
            key="launch",
            icon=":material/rocket_launch:",
            type="primary",
            disabled=sizing is None or is_too_large,
        )
    if sizing and (wanted or forced):
        with problems.shown():
            launch(choice, sizing, force=forced)


def launch(choice: Choice, sizing: Sizing, *, force: bool) -> None:
    """Ask for the deployment and go on to its stages."""
    panel = opened_panel()
    deployment = panel.launch(choice.plan(panel, sizing.chosen), actor=actor(), force=force)
    choice.change(step="launch", deployment=deployment.id)
    st.rerun()
