"""GPUs as NVIDIA's management library (NVML) sees them. No CUDA is started and no torch imported.

A GPU that does not answer becomes a problem and the others are listed all the same; a machine
without a driver gives no GPUs and the reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pynvml

from panel.hardware.links import read_links
from panel.hardware.machine import Gpu, GpuProcess, Link, Problem, ProblemCode


@dataclass(frozen=True, slots=True)
class NvidiaFacts:
    """All that the driver told."""

    gpus: tuple[Gpu, ...] = ()
    links: tuple[Link, ...] = ()
    driver_version: str | None = None
    cuda_driver_version: str | None = None
    problems: tuple[Problem, ...] = ()


def read_nvidia(nvml: Any = pynvml) -> NvidiaFacts:
    """Ask the driver. nvml: the library's module; tests give another."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return NvidiaFacts(problems=(_problem(nvml, error),))
    try:
        return _read(nvml)
    except nvml.NVMLError as error:
        return NvidiaFacts(problems=(_problem(nvml, error),))
    finally:
        ask(nvml, nvml.nvmlShutdown)


def ask(nvml: Any, function: Any, *arguments: Any) -> Any | None:
    """The function's answer, or None where this driver or this GPU has none to give."""
    try:
        return function(*arguments)
    except nvml.NVMLError:
        return None


def _read(nvml: Any) -> NvidiaFacts:
    gpus: list[Gpu] = []
    problems: list[Problem] = []
    handles: dict[int, Any] = {}
    count = nvml.nvmlDeviceGetCount()
    for index in range(count):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            found = _gpus_of(nvml, index, handle)
        except nvml.NVMLError as error:
            problems.append(_problem(nvml, error, index))
            continue
        gpus += found
        handles[index] = handle
        if not found:
            problems.append(_no_slice(index))
    if count == 0:
        problems.append(_NO_GPU)
    version = ask(nvml, nvml.nvmlSystemGetCudaDriverVersion_v2)
    return NvidiaFacts(
        gpus=tuple(gpus),
        links=read_links(nvml, handles),
        driver_version=ask(nvml, nvml.nvmlSystemGetDriverVersion),
        cuda_driver_version=f"{version // 1000}.{version % 1000 // 10}" if version else None,
        problems=tuple(problems),
    )


def _gpus_of(nvml: Any, index: int, handle: Any) -> list[Gpu]:
    """The GPU, or its slices if it is cut into some (MIG): then CUDA programs see only those."""
    modes = ask(nvml, nvml.nvmlDeviceGetMigMode, handle)
    if not modes or modes[0] != nvml.NVML_DEVICE_MIG_ENABLE:
        return [_gpu(nvml, index, handle, handle)]
    slices = []
    for mig_index in range(ask(nvml, nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        part = ask(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, mig_index)
        if part is not None:
            slices.append(_gpu(nvml, index, handle, part, mig_index))
    return slices


def _gpu(nvml: Any, index: int, whole: Any, part: Any, mig_index: int | None = None) -> Gpu:
    """part: the same as `whole`, or a slice of it, which has its own name, uuid and memory."""
    memory = nvml.nvmlDeviceGetMemoryInfo(part)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(whole)
    power_limit_mw = ask(nvml, nvml.nvmlDeviceGetEnforcedPowerLimit, whole)
    pci = ask(nvml, nvml.nvmlDeviceGetPciInfo, whole)
    return Gpu(
        nvml_index=index,
        name=nvml.nvmlDeviceGetName(part),
        uuid=nvml.nvmlDeviceGetUUID(part),
        memory_bytes=memory.total,
        free_bytes=memory.free,
        compute_capability=(major, minor),
        power_limit_w=power_limit_mw / 1000 if power_limit_mw else None,
        pci_bus_id=pci.busId if pci else "",
        mig_index=mig_index,
        processes=_processes(nvml, part),
    )


def _processes(nvml: Any, handle: Any) -> tuple[GpuProcess, ...]:
    """The programs that hold memory there, each once, also if it both computes and draws."""
    lists = (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses)
    held = {p.pid: p.usedGpuMemory for list_ in lists for p in ask(nvml, list_, handle) or ()}
    return tuple(
        GpuProcess(pid, ask(nvml, nvml.nvmlSystemGetProcessName, pid), memory_bytes)
        for pid, memory_bytes in sorted(held.items())
    )


_NO_GPU = Problem(
    ProblemCode.NO_GPU,
    "The NVIDIA driver is loaded but finds no GPU.",
    "In a container, start it with --gpus all; else see whether `lspci` lists the GPU.",
)


def _no_slice(index: int) -> Problem:
    return Problem(
        ProblemCode.NO_MIG_SLICE,
        f"GPU {index} is in MIG mode, and no slice of it is given to this machine.",
        f"Create one (`nvidia-smi mig -i {index} -cgi …  -C`) or turn MIG off.",
        index,
    )


def _problem(nvml: Any, error: Any, index: int | None = None) -> Problem:
    """What an error of the driver means to a person."""
    code, said, fix = _MEANINGS.get(error.value, (ProblemCode.GPU_FAILED, "", ""))
    who = "The NVIDIA driver" if index is None else f"GPU {index}"
    if not said:
        said = f"{who} does not answer: {error}."
        fix = "See `nvidia-smi` and `dmesg | grep -i xid`; a restart of the machine may help."
    return Problem(code, said.format(who=who), fix, index)


_MEANINGS: dict[int, tuple[ProblemCode, str, str]] = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: (
        ProblemCode.NO_DRIVER,
        "No NVIDIA driver is installed here (libnvidia-ml.so.1 was not found).",
        "With an NVIDIA GPU, install its driver; without one, models run on the processor.",
    ),
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: (
        ProblemCode.DRIVER_NOT_LOADED,
        "The NVIDIA driver is installed but not loaded.",
        "Run `sudo modprobe nvidia`, or restart the machine if the driver was just installed.",
    ),
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        ProblemCode.DRIVER_MISMATCH,
        "The NVIDIA driver was updated while an older one is still running.",
        "Restart the machine.",
    ),
    pynvml.NVML_ERROR_NO_PERMISSION: (
        ProblemCode.NO_PERMISSION,
        "{who} may not be used by this user.",
        "Check the rights of /dev/nvidia*.",
    ),
    pynvml.NVML_ERROR_GPU_IS_LOST: (
        ProblemCode.GPU_LOST,
        "{who} has fallen off the bus.",
        "Restart the machine; if it comes back, check power and seating of the card.",
    ),
}
