"""Step 3: the start, live. The page only looks: the supervisor works, whoever watches."""

from __future__ import annotations

import streamlit as st

from db.models import Deployment, State
from panel.runtimes.plan import Plan
from panel.sizing.fit import Fit
from panel.ui.actor import actor
from panel.ui.command import draw_command
from panel.ui.failure import draw_cause, draw_evidence, draw_try_again
from panel.ui.i18n import _
from panel.ui.opened import opened_panel
from panel.ui.problems import shown
from panel.ui.progress import progress_of
from panel.ui.setup.choice import Choice
from panel.ui.stages import LINES_SHOWN, draw_stages
from panel.ui.wording import STATES, badge, duration, gib, number, percent, tokens

LOOK_EVERY_S = 0.5
SIDE_WIDTH = 30
"""Characters of a command's line in the narrow column."""

SETTLED = (State.READY, State.FAILED, State.STOPPED)


def draw(choice: Choice) -> None:
    panel = opened_panel()
    deployment = panel.deployment(choice.deployment or "")
    if deployment.state is State.READY:
        choice.change(step="ready")
        st.rerun()
    is_settled = deployment.state in SETTLED
    left, right = st.columns([1.6, 1], gap="large")
    with left:
        if is_settled:
            draw_ended(choice, deployment)
        else:
            st.fragment(draw_start, run_every=LOOK_EVERY_S)(deployment.id)
    with right:
        draw_side(deployment, is_settled)


def draw_start(id: str) -> None:
    """The stages as they are now. When the start has ended, the whole page is drawn anew."""
    with shown():
        deployment = opened_panel().deployment(id)
        if deployment.state in SETTLED:
            st.rerun()
        draw_title(deployment)
        draw_progress(deployment)


def draw_title(deployment: Deployment) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.subheader(deployment.name, width="content")
        badge(STATES[deployment.state])


def draw_progress(deployment: Deployment) -> None:
    attempt = deployment.last_attempt
    if attempt is None:
        st.status(_("Waiting for the supervisor"), state="running", type="step")
        return
    panel = opened_panel()
    typical = panel.typical_durations(deployment.plan["source"])
    now = progress_of(attempt.stages, typical)
    words = [percent(now.share), _("{time} elapsed", time=duration(now.elapsed_s))]
    if now.left_s is not None:
        words.append(_("about {time} left", time=duration(now.left_s)))
    if attempt.number > 1:
        words.append(_("attempt {n}", n=attempt.number))
    st.progress(now.share, text=" · ".join(words))
    draw_stages(attempt, typical, panel.logs(deployment.id, limit=LINES_SHOWN))


def draw_ended(choice: Choice, deployment: Deployment) -> None:
    """Why the start did not lead to a ready engine, what to do about it, and how far it came."""
    draw_title(deployment)
    attempt = deployment.last_attempt
    has_failed = deployment.state is State.FAILED
    if has_failed and attempt:
        draw_cause(attempt)
    elif not has_failed:
        st.info(_("It was stopped."), icon=":material/stop_circle:")
    draw_ways_on(choice, deployment, has_failed=has_failed)
    if attempt and has_failed:
        draw_evidence(attempt)
    if attempt:
        draw_stages(attempt, {}, [])


def draw_ways_on(choice: Choice, deployment: Deployment, *, has_failed: bool) -> None:
    """After a failure the same again; after a stop another one."""
    with st.container(horizontal=True, gap="small"):
        new_id = draw_try_again(deployment, key="setup") if has_failed else None
        text = _("Change the settings") if has_failed else _("Set up another")
        st.button(
            text,
            key="change_settings" if has_failed else "another",
            icon=":material/tune:" if has_failed else ":material/add:",
            type="secondary" if has_failed else "primary",
            on_click=choice.change,
            kwargs={"step": "model", "deployment": None},
        )
        if st.button(_("See the log"), key="see_log", icon=":material/article:"):
            st.switch_page(
                "views/deployments.py", query_params={"id": deployment.id, "tab": "logs"}
            )
    if new_id:
        choice.change(step="launch", deployment=new_id)
        st.rerun()


def draw_side(deployment: Deployment, is_settled: bool) -> None:
    st.subheader(_("What is asked for"))
    plan = Plan.from_dict(deployment.plan)
    with st.container(border=True):
        st.table(facts(deployment, plan), border="horizontal", alt=_("What is asked for"))
        if not is_settled and st.button(_("Stop"), key="stop", icon=":material/stop_circle:"):
            with shown():
                opened_panel().stop(deployment.id, actor=actor())
                st.rerun()
    st.caption(_("The same from a terminal"))
    draw_command(opened_panel().command_line(plan), width=SIDE_WIDTH)
    if not is_settled:
        st.caption(
            _("You may close this page: the start goes on, and this address shows it again.")
        )


def facts(deployment: Deployment, plan: Plan) -> dict[str, str]:
    rows = {
        _("Deployment"): deployment.id,
        _("Model"): plan.name,
        _("Precision"): str(plan.precision),
        _("Context length"): tokens(plan.workload.context_tokens),
        _("Parallel requests"): number(plan.workload.parallel_requests),
    }
    if deployment.predicted:
        rows[_("Expected memory")] = gib(Fit.from_dict(deployment.predicted).total_bytes)
    return rows
