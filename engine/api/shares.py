"""What each replica gets of the machine: its CPU threads, and GPUs that nobody else uses.

Torch-free, as the API process is: GPUs are counted by NVML, and handed out through the variable
CUDA_VISIBLE_DEVICES, within what that variable already allows. A single replica on a single device
is left as it is: its core picks the emptiest GPU itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pynvml

from engine.config import EngineConfig
from engine.errors import ConfigError

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True)
class Share:
    """How one replica's core is started: its options, and what its environment has besides."""

    argv: list[str]
    env: dict[str, str]


def shares(config: EngineConfig) -> list[Share]:
    """One share a replica, of this machine. Raises ConfigError when there are too few GPUs."""
    gpus = () if config.device_map == "cpu" else visible_gpus(os.environ)
    return divide(config, gpus, len(os.sched_getaffinity(0)))


def divide(config: EngineConfig, gpus: Sequence[str], num_cores: int) -> list[Share]:
    """Pure. gpus: as CUDA_VISIBLE_DEVICES names them."""
    argv = config.to_argv()
    if config.replicas > 1:
        threads = max(1, (config.num_threads or num_cores) // config.replicas)
        argv = replace(config, num_threads=threads).to_argv()
    size = config.tensor_parallel_size
    is_alone = config.replicas * size == 1
    if is_alone or config.device_map == "cpu" or (config.device_map == "auto" and not gpus):
        return [Share(argv, {}) for _ in range(config.replicas)]
    _check_gpus(config, gpus)
    starts = range(0, config.replicas * size, size)
    return [Share(argv, {VISIBLE: ",".join(gpus[start : start + size])}) for start in starts]


def _check_gpus(config: EngineConfig, gpus: Sequence[str]) -> None:
    num_needed = config.replicas * config.tensor_parallel_size
    if ":" in config.device_map:
        raise ConfigError(
            f"--device-map {config.device_map} names one device; {num_needed} are needed.",
            fix=f"Choose --device-map auto, and the GPUs by {VISIBLE}.",
        )
    if len(gpus) < num_needed:
        raise ConfigError(
            f"--replicas {config.replicas} of --tensor-parallel-size "
            f"{config.tensor_parallel_size} need {num_needed} GPUs; {len(gpus)} are visible.",
            fix="Choose fewer, or --device-map cpu.",
        )


def visible_gpus(env: Mapping[str, str]) -> tuple[str, ...]:
    """The GPUs that a process may use, by the names that CUDA_VISIBLE_DEVICES takes.

    As CUDA reads the variable: an entry of -1 hides itself and all that follow.
    """
    if VISIBLE not in env:
        return tuple(str(index) for index in range(_count_gpus()))
    names: list[str] = []
    for name in env[VISIBLE].split(","):
        if name.strip() in ("", "-1"):
            break
        names.append(name.strip())
    return tuple(names)


def _count_gpus() -> int:
    try:
        pynvml.nvmlInit()
        count = int(pynvml.nvmlDeviceGetCount())
        pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return 0
    return count
