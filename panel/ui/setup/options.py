"""The engine's options as widgets: each derived from its one row in EngineConfig."""

from __future__ import annotations

import streamlit as st

from engine.config import OptionInfo
from panel.ui.i18n import _
from panel.ui.setup.choice import OPTIONS, Choice


def draw(choice: Choice) -> None:
    """All options, closed; the header says how many differ from their defaults."""
    changed = len(choice.options) + (choice.port is not None)
    label = _("Options") if not changed else _("Options ({n} changed)", n=changed)
    with st.expander(label, icon=":material/tune:", key="options"):
        draw_port(choice)
        with st.grid(2, min_column_width=220, gap="small"):
            for info in OPTIONS.values():
                draw_option(info, choice)


def draw_port(choice: Choice) -> None:
    key = "port_picked"
    st.session_state[key] = choice.port
    st.number_input(
        "port",
        min_value=1,
        max_value=65535,
        key=key,
        placeholder=_("the next free one"),
        help=_("Port to listen on"),
        on_change=lambda: choice.change(port=st.session_state[key]),
    )


def draw_option(info: OptionInfo, choice: Choice) -> None:
    """The widget that an option's type and range ask for."""
    key = f"option_{info.name}"
    st.session_state[key] = dict(choice.options).get(info.name, info.default)
    shared = {
        "key": key,
        "help": f"{_(info.help)}  \n`{info.flag}` {info.allowed}",
        "on_change": lambda: choice.set_option(info.name, st.session_state[key]),
    }
    if info.choices:
        st.selectbox(info.name, list(info.choices), **shared)
    elif info.kind is bool:
        st.toggle(info.name, **shared)
    elif info.kind in (int, float):
        lo, hi = (None if x is None else info.kind(x) for x in (info.lo, info.hi))
        step = 1 if info.kind is int else 0.01
        st.number_input(info.name, min_value=lo, max_value=hi, step=step, **shared)
    else:
        st.text_input(info.name, **shared)
