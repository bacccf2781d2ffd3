"""Our own engine as a runtime: a Plan becomes `python -m engine.launch …`. Pure."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config import EngineConfig
from panel.runtimes.plan import Plan
from panel.sizing.fit import Precision

PACKAGES_PATH = Path(__file__).parents[2]
"""Where the packages lie; the engine's process must find them whatever its working folder is."""


@dataclass(frozen=True)
class Command:
    """A program with its arguments and the variables it needs beyond the inherited ones."""

    argv: tuple[str, ...]
    env: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        return {"argv": list(self.argv), "env": dict(self.env)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Command:
        return cls(tuple(values["argv"]), dict(values["env"]))


def config(
    plan: Plan, *, model_path: Path, port: int, api_key_file: Path | str | None
) -> EngineConfig:
    """The engine's options for a plan. Raises ConfigError for values the engine does not take."""
    quantized = plan.precision in (Precision.INT8, Precision.INT4)
    return EngineConfig.from_dict(
        {
            **plan.options,
            "model_path": str(model_path),
            "served_model_name": plan.name,
            "port": port,
            "dtype": "auto" if quantized else str(plan.precision),
            "quantization": str(plan.precision) if quantized else "none",
            "max_seq_length": plan.workload.context_tokens,
            "max_num_seqs": plan.workload.parallel_requests,
            "enable_health_check": True,
            "api_key_file": None if api_key_file is None else str(api_key_file),
        }
    )


def command(
    plan: Plan,
    *,
    model_path: Path,
    port: int,
    api_key_file: Path | str | None,
    python: str = sys.executable,
) -> Command:
    """The command that serves a plan's model from `model_path` on `port`."""
    options = config(plan, model_path=model_path, port=port, api_key_file=api_key_file)
    env = {"PYTHONPATH": str(PACKAGES_PATH), "PYTHONUNBUFFERED": "1"}
    return Command((python, "-m", "engine.launch", *options.to_argv()), env)
