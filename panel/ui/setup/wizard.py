"""The wizard's frame: title, stepper, and the step that the address names."""

from __future__ import annotations

import streamlit as st

from panel.ui.i18n import _
from panel.ui.setup import hardware, launch, model, ready
from panel.ui.setup.choice import STEPS, Choice


def draw() -> None:
    choice = Choice.read()
    draw_head(choice)
    match choice.step:
        case "model":
            model.draw(choice)
        case "launch" if choice.deployment:
            launch.draw(choice)
        case "ready" if choice.deployment:
            ready.draw(choice)
        case "launch" | "ready":
            model.draw(choice)
        case _:
            hardware.draw(choice)


def draw_head(choice: Choice) -> None:
    with st.container(
        horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"
    ):
        with st.container(width="content", gap=None):
            st.title(_("Set up a model server"))
            st.caption(_("Four steps from this machine to a model that answers."))
        draw_stepper(choice)


def draw_stepper(choice: Choice) -> None:
    """One button a step. Steps behind are open; those ahead open by the page's own buttons."""
    titles = {
        "hardware": _("Hardware"),
        "model": _("Model & size"),
        "launch": _("Launch"),
        "ready": _("Ready"),
    }
    current = STEPS.index(choice.step)
    with st.container(horizontal=True, width="content", gap="xsmall", vertical_alignment="center"):
        for index, step in enumerate(STEPS):
            icon = "check_circle" if index < current else f"counter_{index + 1}"
            st.button(
                titles[step],
                key=f"step_{step}",
                icon=f":material/{icon}:",
                type="primary" if step == choice.step else "tertiary",
                disabled=index > current,
                on_click=choice.change,
                kwargs={"step": step},
            )
