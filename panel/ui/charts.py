"""Pictures as ECharts options: the memory bar and the timeline of stages. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from panel.sizing.fit import Fit

GIB = 1024**3
MEMORY_BAR_HEIGHT = 126


@dataclass(frozen=True)
class Palette:
    """Colours of one theme."""

    parts: tuple[str, str, str, str]
    headroom: str
    reserve: str
    limit: str
    text: str
    soft_text: str
    states: dict[str, str]


LIGHT = Palette(
    parts=("#3b5bdb", "#12b5a0", "#8b5cf6", "#94a3c4"),
    headroom="#edf0f7",
    reserve="#d9dfea",
    limit="#d6404a",
    text="#0b1020",
    soft_text="#475069",
    states={
        "done": "#12946a",
        "running": "#3b5bdb",
        "failed": "#d6404a",
        "skipped": "#c5cddd",
        "pending": "#c5cddd",
    },
)
DARK = Palette(
    parts=("#4c6ef5", "#12b5a0", "#9775fa", "#6b7a99"),
    headroom="#232c40",
    reserve="#39445c",
    limit="#ff8787",
    text="#e6eaf3",
    soft_text="#a9b6cf",
    states={
        "done": "#38d9a9",
        "running": "#748ffc",
        "failed": "#ff8787",
        "skipped": "#39445c",
        "pending": "#39445c",
    },
)


def palette(is_dark: bool) -> Palette:
    return DARK if is_dark else LIGHT


@dataclass(frozen=True)
class MemoryWords:
    """The names of the parts, in the reader's language."""

    weights: str
    kv: str
    activations: str
    runtime: str
    headroom: str
    reserve: str
    reserve_help: str
    limit: str


def memory_bar(fit: Fit, words: MemoryWords, *, is_dark: bool) -> dict[str, Any]:
    """A stacked bar in GiB: what the model takes, what stays free, what is kept back.

    The red line is the device's capacity; the bar ends beyond it where the model is too large.
    """
    colors = palette(is_dark)
    free = max(0, fit.budget_bytes - fit.total_bytes)
    reserve = max(0, fit.capacity_bytes - max(fit.budget_bytes, fit.total_bytes))
    parts = [
        (words.weights, fit.weight_bytes, colors.parts[0], "#ffffff"),
        (words.kv, fit.kv_bytes, colors.parts[1], "#06251f"),
        (words.activations, fit.activation_bytes, colors.parts[2], "#ffffff"),
        (words.runtime, fit.runtime_bytes, colors.parts[3], "#0b1020"),
        (words.headroom, free, colors.headroom, colors.soft_text),
        (words.reserve, reserve, colors.reserve, colors.soft_text),
    ]
    longest = max(fit.capacity_bytes, fit.total_bytes)
    series = [_part(*part, longest=longest) for part in parts]
    series[-1]["tooltip"] = {"formatter": f"{words.reserve_help}: {reserve / GIB:.2f} GiB"}
    series[-1]["markLine"] = _line(fit.capacity_bytes / GIB, words.limit, colors)
    return {
        "animation": False,
        "grid": {"left": 0, "right": 26, "top": 26, "bottom": 44},
        "legend": {
            "bottom": 0,
            "left": 0,
            "itemWidth": 11,
            "itemHeight": 11,
            "itemGap": 10,
            "icon": "roundRect",
            "textStyle": {"color": colors.text, "fontSize": 11.5},
            "selectedMode": False,
        },
        "tooltip": {"trigger": "item", "valueFormatter": "%.2f GiB"},
        "xAxis": {"type": "value", "show": False, "max": longest / GIB * 1.02},
        "yAxis": {"type": "category", "data": [""], "show": False},
        "series": series,
    }


def _part(name: str, num_bytes: int, color: str, text: str, *, longest: int) -> dict[str, Any]:
    value = round(num_bytes / GIB, 2)
    is_wide = num_bytes > 0.07 * longest
    return {
        "name": name,
        "type": "bar",
        "stack": "memory",
        "barWidth": 42,
        "data": [value],
        "itemStyle": {"color": color},
        "label": {
            "show": is_wide,
            "position": "inside",
            "formatter": f"{value:.1f}",
            "color": text,
            "fontSize": 12,
        },
        "emphasis": {"disabled": True},
    }


def _line(at: float, text: str, colors: Palette) -> dict[str, Any]:
    return {
        "symbol": "none",
        "silent": True,
        "lineStyle": {"color": colors.limit, "width": 2, "type": "solid"},
        "label": {"formatter": text, "color": colors.text, "fontSize": 11, "position": "end"},
        "data": [{"xAxis": at}],
    }


@dataclass(frozen=True)
class Span:
    """One bar of a timeline: seconds after its beginning, and the stage's status."""

    label: str
    start_s: float
    duration_s: float
    status: str
    said: str


def timeline(spans: Sequence[Span], *, is_dark: bool, seconds_name: str) -> dict[str, Any]:
    """Horizontal bars from top to bottom, each beginning where its stage began."""
    colors = palette(is_dark)
    bars = [
        {
            "value": round(max(span.duration_s, 0.001), 3),
            "itemStyle": {"color": colors.states[span.status], "borderRadius": 4},
            "label": {"show": True, "position": "right", "formatter": span.said,
                      "color": colors.soft_text, "fontSize": 12},
        }
        for span in spans
    ]  # fmt: skip
    axis_text = {"color": colors.text, "fontSize": 12}
    return {
        "animation": False,
        "grid": {"left": 4, "right": 70, "top": 4, "bottom": 24, "containLabel": True},
        "xAxis": {
            "type": "value",
            "axisLabel": {"color": colors.soft_text, "formatter": "{value} " + seconds_name},
            "splitLine": {"lineStyle": {"color": colors.headroom}},
        },
        "yAxis": {
            "type": "category",
            "inverse": True,
            "data": [span.label for span in spans],
            "axisLabel": axis_text,
            "axisTick": {"show": False},
            "axisLine": {"show": False},
        },
        "series": [
            {
                "type": "bar",
                "stack": "time",
                "silent": True,
                "itemStyle": {"color": "transparent"},
                "data": [round(span.start_s, 3) for span in spans],
            },
            {"type": "bar", "stack": "time", "silent": True, "barWidth": 14, "data": bars},
        ],
    }
