"""Who is acting: the name under which the history records a click."""

from __future__ import annotations

import getpass

import streamlit as st


def actor() -> str:
    """The name of the login, else of the account that runs the panel."""
    if st.user.get("is_logged_in"):
        return str(st.user.get("email") or st.user.get("name"))
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "panel"  # a container may run as a number without a name
