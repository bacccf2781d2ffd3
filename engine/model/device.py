"""Where a model is put, in which type it computes, and how much memory is free there."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch
from transformers import PreTrainedConfig

from engine.config import EngineConfig
from engine.errors import ConfigError
from engine.footprint import DeviceKind

_CGROUP = Path("/sys/fs/cgroup")


def choose_device(device_map: str) -> torch.device:
    """auto: the GPU with most free memory, or the CPU where there is none.

    Raises ConfigError for a device that is not here.
    """
    if device_map == "cpu" or (device_map == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if device_map in ("auto", "cuda"):
        device_map = f"cuda:{_emptiest_gpu()}"
    name, _, number = device_map.partition(":")
    count = torch.cuda.device_count()
    if name != "cuda" or not number.isdigit() or int(number) >= count:
        raise ConfigError(
            f"--device-map is {device_map!r}; this machine offers torch the CPU and {count} GPUs.",
            fix="Choose auto, cpu" + (f" or cuda:0 … cuda:{count - 1}." if count else "."),
        )
    return torch.device(device_map)


def _emptiest_gpu() -> int:
    count = torch.cuda.device_count()
    if not count:
        raise ConfigError("torch finds no GPU.", fix="Choose --device-map cpu.")
    return max(range(count), key=lambda index: torch.cuda.mem_get_info(index)[0])


def choose_dtype(
    config: EngineConfig, model: PreTrainedConfig, device: torch.device
) -> torch.dtype:
    """The computing type, as EngineConfig.dtype says; float16 on a GPU that lacks bfloat16."""
    if config.dtype != "auto":
        return getattr(torch, config.dtype)
    if device.type == "cpu":
        return torch.float32
    dtype = model.dtype if isinstance(model.dtype, torch.dtype) else torch.bfloat16
    if dtype is torch.bfloat16 and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return dtype


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def free_bytes(device: torch.device, memory_fraction: float) -> int:
    """What the engine may still fill: `memory_fraction` of the GPU less what is used there, or of
    the memory that the system can give (within the container's limit)."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return max(0, int(total * memory_fraction) - (total - free))
    return int(min(psutil.virtual_memory().available, _cgroup_free_bytes()) * memory_fraction)


def _cgroup_free_bytes() -> float:
    """What this container may still take; infinite without a limit."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        cache = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return float("inf")
    if limit == "max":
        return float("inf")
    return int(limit) - used + int(cache.get("inactive_file", 0))


def device_kind(device: torch.device) -> DeviceKind:
    return DeviceKind(device.type)
