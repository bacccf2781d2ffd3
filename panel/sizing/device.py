"""Where an engine would run, and how much of it may be filled. Pure: reads hardware facts only.

budget: GPU  memory_fraction x capacity - what others hold now
        CPU  the memory available now (a cgroup's limit respected by the hardware facts)
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.config import EngineConfig
from engine.footprint import DeviceKind
from panel.errors import NotFound
from panel.hardware.machine import Gpu, Machine


@dataclass(frozen=True, slots=True)
class Device:
    """Where the engine would run. budget_bytes: what it may fill there."""

    name: str
    kind: DeviceKind
    capacity_bytes: int
    budget_bytes: int
    has_bfloat16: bool


def device_of(machine: Machine, gpu: int | None = None) -> Device:
    """The device that the engine would take: the GPU asked for, the freest GPU, or the CPU."""
    if not machine.gpus:
        flags = set(machine.cpu_flags)
        return Device(
            name=machine.cpu_name,
            kind=DeviceKind.CPU,
            capacity_bytes=machine.ram_bytes,
            budget_bytes=machine.ram_available_bytes,
            has_bfloat16=any("bf16" in flag for flag in flags),
        )
    chosen = _gpu(machine, gpu)
    used = chosen.memory_bytes - chosen.free_bytes
    return Device(
        name=chosen.name,
        kind=DeviceKind.CUDA,
        capacity_bytes=chosen.memory_bytes,
        budget_bytes=max(0, int(EngineConfig.memory_fraction * chosen.memory_bytes) - used),
        has_bfloat16=chosen.compute_capability >= (8, 0),
    )


def _gpu(machine: Machine, nvml_index: int | None) -> Gpu:
    if nvml_index is None:
        return max(machine.gpus, key=lambda gpu: gpu.free_bytes)
    for gpu in machine.gpus:
        if gpu.nvml_index == nvml_index:
            return gpu
    known = ", ".join(str(gpu.nvml_index) for gpu in machine.gpus)
    raise NotFound(f"There is no GPU {nvml_index} here.", fix=f"Choose one of: {known}.")
