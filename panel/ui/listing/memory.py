"""Predicted against measured memory of a deployment."""

from __future__ import annotations

import streamlit as st

from db.models import Deployment
from panel.sizing.fit import Fit
from panel.ui.i18n import _
from panel.ui.wording import gib, percent


def draw_predicted_and_measured(deployment: Deployment) -> None:
    """A table of both, part by part; only what was predicted before the engine is ready."""
    if deployment.predicted is None:
        return
    fit = Fit.from_dict(deployment.predicted)
    memory = measured_memory(deployment)
    rows = [
        (_("Weights"), fit.weight_bytes, memory.get("weight_bytes")),
        (_("KV cache"), fit.kv_bytes, memory.get("kv_bytes")),
        (_("Whole engine"), fit.total_bytes, memory.get("peak_bytes")),
    ]
    st.caption(_("Memory, predicted with an error of ± {size}", size=gib(fit.error_bytes)))
    st.table(
        [
            {
                _("Part"): name,
                _("Predicted"): gib(predicted, 2),
                _("Measured"): gib(measured, 2) if measured else "–",
                _("Difference"): difference(predicted, measured),
            }
            for name, predicted, measured in rows
        ],
        hide_index=True,
        border="horizontal",
        alt=_("Predicted and measured memory"),
    )


def measured_memory(deployment: Deployment) -> dict[str, int]:
    """What the engine said of its memory when it became ready; empty before."""
    attempt = deployment.last_attempt
    return ((attempt and attempt.measured) or {}).get("memory") or {}


def difference(predicted: int, measured: int | None) -> str:
    if not measured or not predicted:
        return "–"
    share = round(measured / predicted - 1, 2) + 0.0  # no -0 %
    return ("+" if share > 0 else "") + percent(share)
