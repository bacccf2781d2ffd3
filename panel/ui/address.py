"""What must survive a refresh is in the page's address; these are its only reader and writer."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import streamlit as st


def text(name: str) -> str | None:
    """The value of `?name=`, None where it is missing or empty."""
    return st.query_params.get(name) or None


def choice(name: str, allowed: Collection[str], default: str) -> str:
    """One of the allowed values, whatever somebody wrote into the address."""
    value = text(name)
    return value if value is not None and value in allowed else default


def whole_number(name: str, default: int) -> int:
    value = text(name) or ""
    return int(value) if value.isdecimal() else default


def several(name: str) -> list[str]:
    """All values of `?name=a&name=b`."""
    return st.query_params.get_all(name)


def put(**values: str | int | Sequence[str] | None) -> None:
    """Write values into the address; None and empty ones are taken out of it."""
    for name, value in values.items():
        if value is None or value in ("", []):
            st.query_params.pop(name, None)
        else:
            st.query_params[name] = value if isinstance(value, list) else str(value)
