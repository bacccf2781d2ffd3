"""What a reader sees of a page under test, as plain values."""

from __future__ import annotations

from collections.abc import Callable

from streamlit.testing.v1 import AppTest
from streamlit.testing.v1.element_tree import Button

OpenPage = Callable[..., AppTest]
"""The fixture open_page: (page, locale=…, **values of the address) → the drawn page."""


def button(test: AppTest, key: str) -> Button:
    return test.button(key=key)


def has_button(test: AppTest, key: str) -> bool:
    return any(found.key == key for found in test.button)


def words(test: AppTest) -> str:
    """All text of the page: Markdown, titles, messages, code."""
    kinds = (test.title, test.subheader, test.markdown, test.caption, test.code)
    notices = (test.error, test.warning, test.success, test.info)
    return "\n".join(str(found.value) for kind in (*kinds, *notices) for found in kind)


def asked(test: AppTest, name: str) -> str:
    """A value of the page's address; AppTest gives a list or the bare value."""
    value = test.query_params[name]
    return value[0] if isinstance(value, list) else value
