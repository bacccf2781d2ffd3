"""What the reader has chosen so far in the wizard: held in the page's address, nowhere else.

A second tab or a refresh shows the same step with the same choices. When another page was visited
in between, the last choices of this session are put back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import streamlit as st

from engine.config import EngineConfig
from engine.errors import ConfigError
from panel.deployments import Panel
from panel.runtimes.plan import DECIDED_BY_PLAN, Plan
from panel.sizing.fit import Precision
from panel.sizing.workload import Workload
from panel.ui import address

STEPS = ("hardware", "model", "launch", "ready")
DEFAULT_MODEL = "demo"
LAST = "setup_last_choice"
"""Session key: the choice when this page was last drawn."""

OPTIONS = {o.name: o for o in EngineConfig.options() if o.name not in DECIDED_BY_PLAN | {"host"}}
"""The engine's options that the wizard offers beside those that a plan decides."""


@dataclass(frozen=True)
class Choice:
    """precision None: the best that fits. options: values that differ from the defaults."""

    step: str = "hardware"
    model: str = DEFAULT_MODEL
    precision: Precision | None = None
    context_tokens: int = Workload().context_tokens
    parallel_requests: int = Workload().parallel_requests
    options: tuple[tuple[str, Any], ...] = ()
    port: int | None = None
    deployment: str | None = None

    @classmethod
    def read(cls) -> Self:
        """The choice in the address, or where it has none, the last one of this session."""
        if not address.text("step") and LAST in st.session_state:
            st.session_state[LAST].write()
        precision = address.text("precision")
        port = address.whole_number("port", 0)
        found = cls(
            step=address.choice("step", STEPS, "hardware"),
            model=address.text("model") or DEFAULT_MODEL,
            precision=Precision(precision) if precision in set(Precision) else None,
            context_tokens=max(16, address.whole_number("context", cls.context_tokens)),
            parallel_requests=max(1, address.whole_number("parallel", cls.parallel_requests)),
            options=tuple(_read_options(address.several("option"))),
            port=port if 0 < port < 65536 else None,
            deployment=address.text("deployment"),
        )
        st.session_state[LAST] = found
        return found

    def write(self) -> None:
        """Put the choice into the address, leaving out what is as it would be anyway."""
        address.put(
            step=self.step,
            model=self.model,
            precision=self.precision,
            context=self.context_tokens,
            parallel=self.parallel_requests,
            option=[f"{name}={value}" for name, value in self.options],
            port=self.port,
            deployment=self.deployment,
        )

    def change(self, **values: Any) -> None:
        """Write a choice that differs in some values. For callbacks."""
        replace(self, **values).write()

    def set_option(self, name: str, value: Any) -> None:
        """Write a choice with one engine option changed; its default takes it out."""
        rest = [(key, old) for key, old in self.options if key != name]
        changed = [] if value in (OPTIONS[name].default, "") else [(name, value)]
        self.change(options=tuple(rest + changed))

    @property
    def workload(self) -> Workload:
        return Workload(
            context_tokens=self.context_tokens, parallel_requests=self.parallel_requests
        )

    def plan(self, panel: Panel, precision: Precision) -> Plan:
        """The plan that Launch asks for."""
        return panel.plan(
            self.model,
            precision=precision,
            workload=self.workload,
            port=self.port,
            options=dict(self.options),
        )


def _read_options(texts: list[str]) -> list[tuple[str, Any]]:
    """`name=value` of the address as typed values; what the engine does not take is left out."""
    found = []
    for text in texts:
        name, _, value = text.partition("=")
        if name not in OPTIONS:
            continue
        try:
            found.append((name, OPTIONS[name].convert(value, name)))
        except ConfigError:
            continue
    return found
