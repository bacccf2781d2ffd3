"""A plan: everything a person chose about one deployment, as it is stored with it.

The supervisor acts on the plan alone; what it finds out on the way (port, model folder, command)
belongs to the attempt.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

from engine.config import EngineConfig, unknown_option
from engine.errors import ConfigError
from panel.sizing.fit import Precision
from panel.sizing.workload import Workload

DECIDED_BY_PLAN = frozenset(
    {
        "model_path",
        "served_model_name",
        "port",
        "dtype",
        "quantization",
        "max_seq_length",
        "max_num_seqs",
        "api_key_file",
        "enable_health_check",
    }
)
"""Engine options that follow from other fields of a plan, so `options` may not name them."""


def typed_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The same options as values of their types, whatever text they came from. ConfigError."""
    allowed = [o.name for o in EngineConfig.options() if o.name not in DECIDED_BY_PLAN]
    for name in options:
        if name not in (*allowed, *DECIDED_BY_PLAN):
            raise unknown_option(name, allowed)
        if name in DECIDED_BY_PLAN:
            raise ConfigError(
                f"Option {name} is decided by the plan.",
                fix="Use --name, --precision, --context, --parallel or --port.",
            )
    typed = EngineConfig.from_dict({"model_path": "-", **options})
    return {name: getattr(typed, name) for name in options}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which model, how stored, for which work, where.

    options: further EngineConfig values by name; checked when the plan is made.
    port: None lets the supervisor take the next free one.
    Raises ConfigError for an option that is unknown, out of range or decided by the plan itself.
    """

    source: str
    name: str
    precision: Precision
    workload: Workload = field(default_factory=Workload)
    runtime: str = "engine"
    target: str = "process"
    options: Mapping[str, Any] = field(default_factory=dict)
    port: int | None = None

    def __post_init__(self) -> None:
        typed_options(self.options)
        if self.port is not None:
            EngineConfig.from_dict({"model_path": "-", "port": self.port})

    @property
    def host(self) -> str:
        return str(self.options.get("host", "127.0.0.1"))

    def with_port(self, port: int | None) -> Self:
        return replace(self, port=port)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, such that `from_dict` gives this plan back."""
        workload = self.workload
        return {
            "source": self.source,
            "name": self.name,
            "precision": str(self.precision),
            "context_tokens": workload.context_tokens,
            "parallel_requests": workload.parallel_requests,
            "runtime": self.runtime,
            "target": self.target,
            "options": dict(self.options),
            "port": self.port,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read a stored plan. Raises ConfigError for what a plan does not have."""
        rest = dict(values)
        workload = Workload(
            context_tokens=rest.pop("context_tokens"),
            parallel_requests=rest.pop("parallel_requests"),
        )
        precision = Precision(rest.pop("precision"))
        unknown = set(rest) - {f.name for f in fields(cls)}
        if unknown:
            raise ConfigError(f"A plan has no {', '.join(sorted(unknown))}.")
        return cls(precision=precision, workload=workload, **rest)

    def command_line(self) -> str:
        """The `autoglm launch` line that asks for the same."""
        words = ["autoglm", "launch", self.source, "--name", self.name]
        words += ["--precision", str(self.precision)]
        words += ["--context", str(self.workload.context_tokens)]
        words += ["--parallel", str(self.workload.parallel_requests)]
        if self.port is not None:
            words += ["--port", str(self.port)]
        for name, value in self.options.items():
            words += ["--option", f"{name}={value}"]
        return shlex.join(words)
