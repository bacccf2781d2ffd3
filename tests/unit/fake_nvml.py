"""A stand-in for NVML: the module's own constants and errors over a machine made for the test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml

GIB = 2**30
P2P_NVLINK = 2  # of nvml.h


@dataclass
class FakeGpu:
    """One GPU. errors: NVML function name → error code it fails with. slices: MIG, None is empty.
    wires: the PCI address at the other end of each active NVLink."""

    name: str
    memory_gib: float
    capability: tuple[int, int]
    used_gib: float = 0.5
    power_w: int = 300
    bus: str = "0000:01:00.0"
    uuid: str = "GPU-1"
    compute: dict[int, int | None] = field(default_factory=dict)
    graphics: dict[int, int | None] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    slices: list[FakeGpu | None] | None = None
    wires: list[str] = field(default_factory=list)


class FakeNvml:
    """Answers like the module pynvml, for `gpus`. errors: as for a GPU, for the driver itself."""

    NVMLError = pynvml.NVMLError

    def __init__(self, *gpus: FakeGpu, peers: int = 0, **errors: int) -> None:
        self.gpus, self.peers, self.errors = gpus, peers, errors
        self.is_open = False

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml"):
            return getattr(pynvml, name)
        answer: Callable[..., Any] | None = getattr(self, f"_{name}", None)

        def ask(*arguments: Any) -> Any:
            gpu = arguments[0] if arguments and isinstance(arguments[0], FakeGpu) else None
            code = self.errors.get(name) or (gpu.errors.get(name) if gpu else None)
            if code is None and answer is None:
                code = pynvml.NVML_ERROR_NOT_SUPPORTED
            if code is not None:
                raise pynvml.NVMLError(code)
            assert answer is not None
            return answer(*arguments)

        return ask

    def _nvmlInit(self) -> None:
        self.is_open = True

    def _nvmlShutdown(self) -> None:
        self.is_open = False

    def _nvmlSystemGetDriverVersion(self) -> str:
        return "550.90.07"

    def _nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        return 12040

    def _nvmlSystemGetProcessName(self, pid: int) -> str:
        if pid == 1:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NO_PERMISSION)
        return f"/usr/bin/program{pid}"

    def _nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def _nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:
        code = self.gpus[index].errors.get("nvmlDeviceGetHandleByIndex")
        if code is not None:
            raise pynvml.NVMLError(code)
        return self.gpus[index]

    def _nvmlDeviceGetName(self, gpu: FakeGpu) -> str:
        return gpu.name

    def _nvmlDeviceGetUUID(self, gpu: FakeGpu) -> str:
        return gpu.uuid

    def _nvmlDeviceGetMemoryInfo(self, gpu: FakeGpu) -> SimpleNamespace:
        total, used = int(gpu.memory_gib * GIB), int(gpu.used_gib * GIB)
        return SimpleNamespace(total=total, used=used, free=total - used)

    def _nvmlDeviceGetCudaComputeCapability(self, gpu: FakeGpu) -> tuple[int, int]:
        return gpu.capability

    def _nvmlDeviceGetEnforcedPowerLimit(self, gpu: FakeGpu) -> int:
        return gpu.power_w * 1000

    def _nvmlDeviceGetPciInfo(self, gpu: FakeGpu) -> SimpleNamespace:
        return SimpleNamespace(busId=gpu.bus)

    def _nvmlDeviceGetComputeRunningProcesses(self, gpu: FakeGpu) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=p, usedGpuMemory=m) for p, m in gpu.compute.items()]

    def _nvmlDeviceGetGraphicsRunningProcesses(self, gpu: FakeGpu) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=p, usedGpuMemory=m) for p, m in gpu.graphics.items()]

    def _nvmlDeviceGetMigMode(self, gpu: FakeGpu) -> list[int]:
        if gpu.slices is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return [pynvml.NVML_DEVICE_MIG_ENABLE] * 2

    def _nvmlDeviceGetMaxMigDeviceCount(self, gpu: FakeGpu) -> int:
        return 7

    def _nvmlDeviceGetMigDeviceHandleByIndex(self, gpu: FakeGpu, index: int) -> FakeGpu:
        slices = gpu.slices or []
        found = slices[index] if index < len(slices) else None
        if found is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return found

    def _nvmlDeviceGetNvLinkState(self, gpu: FakeGpu, link: int) -> int:
        if link >= len(gpu.wires):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return 1

    def _nvmlDeviceGetNvLinkRemotePciInfo(self, gpu: FakeGpu, link: int) -> SimpleNamespace:
        return SimpleNamespace(busId=gpu.wires[link])

    def _nvmlDeviceGetP2PStatus(self, first: FakeGpu, second: FakeGpu, capability: int) -> int:
        assert isinstance(capability, int), f"the C function takes no {capability!r}"
        if capability == P2P_NVLINK and not first.wires:
            return pynvml.NVML_P2P_STATUS_NOT_SUPPORTED
        return pynvml.NVML_P2P_STATUS_OK

    def _nvmlDeviceGetTopologyCommonAncestor(self, first: FakeGpu, second: FakeGpu) -> int:
        return self.peers
