"""A plan is stored, read back, and becomes one exact command."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import EngineConfig
from engine.errors import ConfigError
from panel.runtimes.engine import Command, command
from panel.runtimes.plan import DECIDED_BY_PLAN, Plan
from panel.sizing.fit import Precision
from panel.sizing.workload import Workload

PLAN = Plan(
    source="demo",
    name="tiny model",
    precision=Precision.INT8,
    workload=Workload(2048, 2),
    options={"block_size": 16, "log_level": "debug"},
)


def config_of(made: Command) -> EngineConfig:
    assert made.argv[1:3] == ("-m", "engine.launch")
    return EngineConfig.parse(made.argv[3:])


def test_a_plan_survives_being_stored() -> None:
    assert Plan.from_dict(PLAN.to_dict()) == PLAN


def test_the_command_carries_every_choice() -> None:
    made = command(PLAN, model_path=Path("/models/a b"), port=8123, api_key_file="/keys/1")
    config = config_of(made)
    assert config.model_path == "/models/a b"
    assert config.model_name == "tiny model"
    assert (config.port, config.api_key_file) == (8123, "/keys/1")
    assert (config.max_seq_length, config.max_num_seqs) == (2048, 2)
    assert (config.block_size, config.log_level) == (16, "debug")
    assert config.enable_health_check


@pytest.mark.parametrize(
    ("precision", "dtype", "quantization"),
    [
        ("float32", "float32", "none"),
        ("bfloat16", "bfloat16", "none"),
        ("int8", "auto", "int8"),
        ("int4", "auto", "int4"),
    ],
)
def test_a_precision_is_a_type_or_a_quantization(
    precision: str, dtype: str, quantization: str
) -> None:
    plan = Plan(source="demo", name="x", precision=Precision(precision))
    config = config_of(command(plan, model_path=Path("/m"), port=1, api_key_file=None))
    assert (config.dtype, config.quantization) == (dtype, quantization)


def test_an_unknown_option_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean block_size\?"):
        Plan(source="demo", name="x", precision=Precision.INT8, options={"blok_size": 16})


@pytest.mark.parametrize("name", sorted(DECIDED_BY_PLAN))
def test_what_the_plan_decides_cannot_be_an_option_too(name: str) -> None:
    with pytest.raises(ConfigError, match="decided by the plan"):
        Plan(source="demo", name="x", precision=Precision.INT8, options={name: 1})


@pytest.mark.parametrize("port", [0, 65536])
def test_a_port_out_of_range_is_refused(port: int) -> None:
    with pytest.raises(ConfigError, match="port"):
        Plan(source="demo", name="x", precision=Precision.INT8, port=port)


def test_what_a_plan_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="no colour"):
        Plan.from_dict({**PLAN.to_dict(), "colour": "red"})
