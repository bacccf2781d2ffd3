"""The memory budget: precision and workload, the bar, the verdict with its reason and its fixes."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from engine.config import EngineConfig
from panel.deployments import Sizing
from panel.sizing.fit import Fit, Precision, Verdict
from panel.sizing.workload import MAX_PARALLEL
from panel.ui.charts import MEMORY_BAR_HEIGHT, MemoryWords, memory_bar
from panel.ui.i18n import _
from panel.ui.opened import opened_panel
from panel.ui.setup.choice import Choice
from panel.ui.setup.notes import said
from panel.ui.wording import gib, kib, number, percent, tokens

CONTEXTS = (1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
PARALLEL = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def draw(choice: Choice, sizing: Sizing) -> None:
    with st.container(border=True):
        draw_controls(choice, sizing)
        draw_bar(sizing.fit, key="memory_bar")
        draw_figures(sizing.fit)
    draw_verdict(choice, sizing)


def draw_controls(choice: Choice, sizing: Sizing) -> None:
    _segments(choice, list(sizing.fits), sizing.chosen)
    contexts = [c for c in CONTEXTS if c <= max(sizing.shape.max_positions, CONTEXTS[0])]
    with st.container(horizontal=True, gap="large"):
        _slider(_("Context length"), "context_tokens", contexts, choice)
        _slider(_("Parallel requests"), "parallel_requests", list(PARALLEL), choice)


def _segments(choice: Choice, precisions: Sequence[Precision], chosen: Precision) -> None:
    key = "precision_picked"
    st.session_state[key] = chosen
    st.segmented_control(
        _("Precision"),
        precisions,
        format_func=str,
        key=key,
        required=True,
        on_change=lambda: choice.change(precision=st.session_state[key]),
    )


def _slider(label: str, field: str, steps: list[int], choice: Choice) -> None:
    """A slider over steps; a value from the address that is none of them becomes one."""
    key = f"slider_{field}"
    value = getattr(choice, field)
    st.session_state[key] = value
    st.select_slider(
        label,
        sorted({*steps, value}),
        key=key,
        format_func=tokens if field == "context_tokens" else number,
        on_change=lambda: choice.change(**{field: st.session_state[key]}),
    )


def draw_bar(fit: Fit, *, key: str) -> None:
    has_gpu = bool(opened_panel().machine().gpus)
    words = MemoryWords(
        weights=_("Weights"),
        kv=_("KV cache"),
        activations=_("Activations"),
        runtime=_("Runtime"),
        headroom=_("Free"),
        reserve=_("Used by others, reserve") if has_gpu else _("Used by others"),
        reserve_help=reserve_words(),
        limit=gib(fit.capacity_bytes),
    )
    st.echarts_chart(
        memory_bar(fit, words, is_dark=st.context.theme.type == "dark"),
        height=MEMORY_BAR_HEIGHT,
        key=key,
        alt=_(
            "Memory by part: {total} needed of {budget} usable on {device}",
            total=gib(fit.total_bytes),
            budget=gib(fit.budget_bytes),
            device=fit.device_name,
        ),
    )


def reserve_words() -> str:
    """What is kept back from the device's memory."""
    if opened_panel().machine().gpus:
        return _(
            "Without what other programs use now and a reserve of {share} for the driver and peaks",
            share=percent(1 - EngineConfig.memory_fraction),
        )
    return _("Without what other programs use now")


def draw_figures(fit: Fit) -> None:
    with st.container(horizontal=True):
        st.metric(
            _("Needed"),
            gib(fit.total_bytes),
            help=_("± {size}, from {device}", size=gib(fit.error_bytes), device=fit.device_name),
        )
        st.metric(_("Usable"), gib(fit.budget_bytes), help=reserve_words())
        st.metric(_("KV per token"), kib(fit.kv_bytes_per_token))
        st.metric(
            _("Longest context"), tokens(fit.max_context_tokens) if fit.max_context_tokens else "–"
        )


def draw_verdict(choice: Choice, sizing: Sizing) -> None:
    fit = sizing.fit
    spare = gib(abs(fit.headroom_bytes))
    work = _(
        "{parallel} parallel requests of {context} tokens",
        parallel=choice.parallel_requests,
        context=tokens(choice.context_tokens),
    )
    notes = "  \n".join(said(note) for note in fit.notes)
    if fit.verdict is Verdict.FITS:
        text = _("{size} stay free with {work}.", size=spare, work=work)
        st.success(
            f"{text}  \n{notes}", title=_("Fits comfortably"), icon=":material/check_circle:"
        )
        return
    if fit.verdict is Verdict.TIGHT:
        text = _("Only {size} stay free with {work}; a burst may queue.", size=spare, work=work)
        st.warning(f"{text}  \n{notes}", title=_("Tight fit"), icon=":material/warning:")
    else:
        text = _(
            "{total} needed, {budget} usable on {device}: {size} too much for {work}.",
            total=gib(fit.total_bytes),
            budget=gib(fit.budget_bytes),
            device=fit.device_name,
            size=spare,
            work=work,
        )
        st.error(f"{text}  \n{notes}", title=_("Does not fit"), icon=":material/block:")
    draw_fixes(choice, sizing)


def draw_fixes(choice: Choice, sizing: Sizing) -> None:
    """Buttons that change what is chosen so that it takes less."""
    roomier = smaller_that_fits(sizing)
    with st.container(horizontal=True, gap="small"):
        if roomier:
            st.button(
                _("Use {precision}", precision=roomier),
                key="fix_precision",
                icon=":material/compress:",
                on_click=choice.change,
                kwargs={"precision": roomier},
            )
        st.button(
            _("Halve the context"),
            key="fix_context",
            icon=":material/content_cut:",
            disabled=choice.context_tokens <= CONTEXTS[0],
            on_click=choice.change,
            kwargs={"context_tokens": max(CONTEXTS[0], choice.context_tokens // 2)},
        )
        st.button(
            _("Halve the parallel requests"),
            key="fix_parallel",
            icon=":material/filter_list:",
            disabled=choice.parallel_requests <= 1,
            on_click=choice.change,
            kwargs={"parallel_requests": max(1, min(choice.parallel_requests, MAX_PARALLEL) // 2)},
        )


def smaller_that_fits(sizing: Sizing) -> Precision | None:
    """The precision that takes the most memory among those with a better verdict."""
    order = list(Verdict)
    better = [
        (fit.total_bytes, precision)
        for precision, fit in sizing.fits.items()
        if order.index(fit.verdict) < order.index(sizing.fit.verdict)
    ]
    return max(better)[1] if better else None
