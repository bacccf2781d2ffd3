"""Texts in the reader's language: gettext catalogues under locales/, chosen anew for every run.

The order: `?lang=` in the URL, what the reader chose in this visit, what an earlier visit left in a
cookie, the browser's language, English. Pages call `_()` at draw time, never at import, because one
process serves all readers.
On Python 3.11 babel does not see `_()` inside an f-string: assign first, then format.
"""

from __future__ import annotations

import functools
import gettext
from pathlib import Path

import streamlit as st
from streamlit.components import v2 as components

LOCALES = Path(__file__).with_name("locales")
DOMAIN = "panel"
LANGUAGES = {"en": "English", "zh": "中文"}
BABEL_LOCALES = {"en": "en", "zh": "zh_Hans_CN"}
CHOICE = "language"
"""Session key: the language that this reader chose, by URL or in the sidebar."""

COOKIE, COOKIE_DAYS = "autoglm_language", 365
_REMEMBER = components.component(
    "autoglm_remember", js=(Path(__file__).parent / "static" / "remember.js").read_text()
)


def language() -> str:
    """The language of this run, `en` or `zh`."""
    for chosen in (
        st.query_params.get("lang"),
        st.session_state.get(CHOICE),
        st.context.cookies.get(COOKIE),
    ):
        if chosen in LANGUAGES:
            return chosen
    return "zh" if (st.context.locale or "").lower().startswith("zh") else "en"


def babel_locale() -> str:
    return BABEL_LOCALES[language()]


def keep_choice() -> None:
    """Remember a language given by URL, and put it back when a change of page dropped it."""
    given = st.query_params.get("lang")
    if given in LANGUAGES:
        st.session_state[CHOICE] = given
    elif st.session_state.get(CHOICE):
        st.query_params["lang"] = st.session_state[CHOICE]


def draw_memory() -> None:
    """Leave the choice of this visit, if there was one, in a cookie; nothing is seen of it."""
    if st.session_state.get(CHOICE):
        data = {"name": COOKIE, "value": st.session_state[CHOICE], "days": COOKIE_DAYS}
        _REMEMBER(data=data, key="remember_language", height=1)


def choose(chosen: str) -> None:
    st.session_state[CHOICE] = chosen
    st.query_params["lang"] = chosen


@functools.cache
def catalogue(chosen: str) -> gettext.NullTranslations:
    return gettext.translation(DOMAIN, LOCALES, languages=[chosen], fallback=chosen == "en")


def _(message: str, /, **values: object) -> str:
    """The message in the language of this run, its {placeholders} filled."""
    text = catalogue(language()).gettext(message)
    return text.format(**values) if values else text


def ngettext(one: str, many: str, n: int, /, **values: object) -> str:
    """The singular or plural message for n; {n} is filled as well."""
    return catalogue(language()).ngettext(one, many, n).format(n=n, **values)


def N_(message: str, /) -> str:
    """Mark a message for the catalogue where it is only stored; `_()` translates it when drawn."""
    return message
