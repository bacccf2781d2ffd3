"""Step 4: it answers. Where, with which key, and what to do next."""

from __future__ import annotations

import streamlit as st

from db.models import Deployment, State
from panel.ui.endpoint import draw_code, draw_endpoint
from panel.ui.i18n import _
from panel.ui.listing.memory import draw_predicted_and_measured
from panel.ui.opened import opened_panel
from panel.ui.progress import time_to_ready_s
from panel.ui.setup.choice import Choice
from panel.ui.wording import duration


def draw(choice: Choice) -> None:
    deployment = opened_panel().deployment(choice.deployment or "")
    if deployment.state is not State.READY:
        choice.change(step="launch")
        st.rerun()
    took = duration(time_to_ready_s(deployment.last_attempt))
    st.success(
        _("{name} answers at {address}. It was ready in {time}.",
          name=deployment.name, address=deployment.endpoint, time=took),
        title=_("Ready"),
        icon=":material/check_circle:",
    )  # fmt: skip
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader(_("Where to reach it"))
        with st.container(border=True):
            draw_endpoint(deployment)
    with right:
        st.subheader(_("What next"))
        draw_next(choice, deployment)
        with st.container(border=True):
            request = {
                "model": deployment.name,
                "messages": [{"role": "user", "content": _("Hello!")}],
            }
            draw_code(deployment, request, key="ready")
        draw_predicted_and_measured(deployment)


def draw_next(choice: Choice, deployment: Deployment) -> None:
    with st.container(horizontal=True, gap="small"):
        if st.button(
            _("Open playground"), key="to_playground", icon=":material/forum:", type="primary"
        ):
            st.switch_page("views/playground.py", query_params={"deployment": deployment.id})
        if st.button(_("See the deployment"), key="to_deployment", icon=":material/history:"):
            st.switch_page("views/deployments.py", query_params={"id": deployment.id})
        st.button(
            _("Set up another"),
            key="another",
            icon=":material/add:",
            type="tertiary",
            on_click=choice.change,
            kwargs={"step": "model", "deployment": None},
        )
