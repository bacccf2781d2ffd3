"""Where a deployment is reached: address, key, and code to copy."""

from __future__ import annotations

import streamlit as st

from db.models import Deployment
from panel.ui import snippets
from panel.ui.i18n import _
from panel.ui.opened import opened_panel
from panel.ui.problems import shown


def draw_endpoint(deployment: Deployment) -> None:
    """Address, model name and key. The key is sent to the browser only when it is asked for."""
    st.markdown(_("Address for OpenAI clients"))
    st.code(f"{deployment.endpoint}/v1", language=None)
    st.markdown(_("Model name"))
    st.code(deployment.name, language=None)
    with st.container(
        horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"
    ):
        st.markdown(_("API key"), width="content")
        revealed = st.toggle(_("Reveal"), key=f"reveal_{deployment.id}")
    with shown():
        key = opened_panel().api_key(deployment) if revealed else "sk-" + "•" * 24
        st.code(key, language=None)


def draw_code(deployment: Deployment, request: dict[str, object], *, key: str) -> None:
    """The same request as curl and Python, with the key left to the environment."""
    base = f"{deployment.endpoint}/v1"
    if deployment.api_key_file:
        st.caption(_("First put the key into the variable AUTOGLM_API_KEY. On this machine:"))
        st.code(snippets.export(deployment.api_key_file), language=None, wrap_lines=True)
    curl, python = st.tabs(["curl", "Python"], key=f"code_{key}")
    curl.code(snippets.curl(base, request), language=None, wrap_lines=True)
    python.code(snippets.python(base, request), language=None)
