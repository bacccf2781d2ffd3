"""What the reader has chosen so far in the wizard: held in the page's address, nowhere else.

A second tab or a refresh shows the same step with the same choices. When another page was visited
in between, the last choices of this session are put back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import streamlit as st

from db.models import State
from engine.config import EngineConfig
from engine.errors import ConfigError
from panel.deployments import Panel
from panel.errors import NotFound
from panel.runtimes.plan import DECIDED_BY_PLAN, Plan
from panel.sizing.fit import Precision
from panel.sizing.workload import Workload
from panel.ui import address
from panel.ui.opened import opened_panel

STEPS = ("hardware", "model", "launch", "ready")
DEFAULT_MODEL = "demo"
FIELDS = ("step", "model", "precision", "context", "parallel", "option", "port", "deployment")
"""The choice's names in the address."""

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
            _to_go_on_with(st.session_state[LAST]).write()
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

    @classmethod
    def of(cls, plan: Plan) -> Self:
        """What a plan chose, at the step where it can be changed; the port is left open."""
        return cls(
            step="model",
            model=plan.source,
            precision=plan.precision,
            context_tokens=plan.workload.context_tokens,
            parallel_requests=plan.workload.parallel_requests,
            options=tuple((n, v) for n, v in plan.options.items() if n in OPTIONS),
        )

    def write(self) -> None:
        """Put the choice into the address, leaving out what is as it would be anyway."""
        query = self.query()
        address.put(**{name: query.get(name) for name in FIELDS})

    def query(self) -> dict[str, str | list[str]]:
        """The choice as values of an address."""
        values = {
            "step": self.step,
            "model": self.model,
            "precision": self.precision,
            "context": self.context_tokens,
            "parallel": self.parallel_requests,
            "port": self.port,
            "deployment": self.deployment,
        }
        query: dict[str, str | list[str]] = {
            name: str(value) for name, value in values.items() if value is not None
        }
        if self.options:
            query["option"] = [f"{name}={value}" for name, value in self.options]
        return query

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


def _to_go_on_with(last: Choice) -> Choice:
    """The last choice; where its deployment has ended as asked, the step that makes another."""
    if last.deployment is None:
        return last
    try:
        is_over = opened_panel().deployment(last.deployment).state is State.STOPPED
    except NotFound:
        is_over = True
    return replace(last, step="model", deployment=None) if is_over else last


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
