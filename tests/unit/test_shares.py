"""How a machine's threads and GPUs are divided among replicas."""

from __future__ import annotations

from typing import Any

import pytest

from engine.api.keeper import pause_s
from engine.api.shares import divide, visible_gpus
from engine.config import EngineConfig
from engine.errors import ConfigError


def _config(**options: Any) -> EngineConfig:
    return EngineConfig(model_path="/m", **options)


def _threads(argv: list[str]) -> int:
    return EngineConfig.parse(argv).num_threads


def test_a_single_replica_is_left_as_it_is() -> None:
    config = _config()
    (share,) = divide(config, ["0", "1"], 8)
    assert (EngineConfig.parse(share.argv), share.env) == (config, {})


@pytest.mark.parametrize(("asked", "cores", "each"), [(0, 8, 2), (6, 8, 1), (0, 2, 1), (12, 8, 3)])
def test_cpu_threads_are_divided(asked: int, cores: int, each: int) -> None:
    parts = divide(_config(replicas=4, num_threads=asked), [], cores)
    assert [(_threads(part.argv), part.env) for part in parts] == [(each, {})] * 4


def test_each_replica_gets_a_gpu_of_its_own_among_the_visible_ones() -> None:
    gpus = visible_gpus({"CUDA_VISIBLE_DEVICES": "3, GPU-ab12,5"})
    parts = divide(_config(replicas=2), gpus, 8)
    names = [part.env["CUDA_VISIBLE_DEVICES"] for part in parts]
    assert names == ["3", "GPU-ab12"]


@pytest.mark.parametrize(("value", "seen"), [("", ()), ("-1", ()), ("0,-1,1", ("0",))])
def test_hidden_gpus_are_not_used(value: str, seen: tuple[str, ...]) -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": value}) == seen


def test_replicas_on_the_cpu_ask_for_no_gpu() -> None:
    assert [part.env for part in divide(_config(replicas=2, device_map="cpu"), ["0"], 2)] == [
        {}
    ] * 2


def test_the_ranks_of_a_replica_share_its_gpus() -> None:
    config = _config(replicas=2, tensor_parallel_size=2)
    parts = divide(config, ["4", "5", "6", "7", "8"], 8)
    assert [part.env["CUDA_VISIBLE_DEVICES"] for part in parts] == ["4,5", "6,7"]
    (one,) = divide(_config(tensor_parallel_size=2), ["0", "1", "2"], 8)
    assert one.env == {"CUDA_VISIBLE_DEVICES": "0,1"}


def test_too_few_gpus_are_refused_with_both_numbers() -> None:
    with pytest.raises(ConfigError, match=r"--replicas 3 .* need 3 GPUs; 2 are visible"):
        divide(_config(replicas=3), ["0", "1"], 8)
    with pytest.raises(ConfigError, match="need 4 GPUs; 2 are visible"):
        divide(_config(tensor_parallel_size=4), ["0", "1"], 8)
    with pytest.raises(ConfigError, match="0 are visible"):
        divide(_config(replicas=2, device_map="cuda"), [], 8)
    with pytest.raises(ConfigError, match="names one device"):
        divide(_config(replicas=2, device_map="cuda:1"), ["0", "1"], 8)


def test_a_core_that_ends_again_and_again_is_started_less_and_less_often() -> None:
    assert [pause_s(n) for n in (1, 2, 3, 4)] == [0.5, 1.0, 2.0, 4.0]
    assert pause_s(100) == 30.0
