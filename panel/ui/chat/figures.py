"""What one answer cost, as badges under it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from panel.ui.i18n import N_, _
from panel.ui.wording import milliseconds, number

REASONS = {
    "length": N_("cut at the token limit"),
    "interrupted": N_("stopped"),
    "error": N_("broken off"),
}


def draw_figures(figures: Mapping[str, Any]) -> None:
    """TTFT, TPOT, speed and tokens; and why it ended where that is not the usual end."""
    badges = figure_badges(figures)
    if badges:
        st.markdown(" ".join(badges))


def figure_badges(figures: Mapping[str, Any]) -> list[str]:
    badges = []
    if figures.get("ttft_s") is not None:
        badges.append(f":gray-badge[:material/bolt: TTFT {milliseconds(figures['ttft_s'])}]")
    if figures.get("tpot_s"):
        speed = _("{n} tok/s", n=number(1 / figures["tpot_s"], 1))
        badges.append(f":gray-badge[:material/timer: TPOT {milliseconds(figures['tpot_s'])}]")
        badges.append(f":gray-badge[:material/speed: {speed}]")
    if figures.get("completion_tokens"):
        made = number(figures["completion_tokens"])
        read = number(figures.get("prompt_tokens", 0))
        text = _("{made} tokens after {read}", made=made, read=read)
        badges.append(f":gray-badge[:material/token: {text}]")
    reason = figures.get("finish_reason")
    if reason in REASONS:
        badges.append(f":orange-badge[:material/stop_circle: {_(REASONS[reason])}]")
    return badges
