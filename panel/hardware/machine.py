"""One machine as facts: frozen, comparable, written to JSON and read back with every field checked.

Sizes are in bytes. Memory and processor counts are what this program may use, so a container's
limits are already in them. Nothing here looks at a real machine; detect.py does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

from panel.hardware.facts import read_fields

_GIB = 2**30
FINGERPRINT_LETTERS = 16


class ProblemCode(StrEnum):
    """Why a part of the machine cannot be used or could not be asked."""

    NO_DRIVER = "no_driver"  # no NVIDIA driver library here
    DRIVER_NOT_LOADED = "driver_not_loaded"
    DRIVER_MISMATCH = "driver_mismatch"  # library and kernel module differ: a reboot is due
    NO_GPU = "no_gpu"  # a driver without a GPU
    NO_PERMISSION = "no_permission"
    NO_MIG_SLICE = "no_mig_slice"  # a GPU cut into slices, none of them ours
    GPU_LOST = "gpu_lost"  # fell off the bus
    GPU_FAILED = "gpu_failed"  # any other error of the driver
    CONTAINER_RUNTIME = "container_runtime"  # Docker is there but does not answer us


@dataclass(frozen=True, slots=True)
class Problem:
    """Something found wrong. message: one English sentence; fix: what a person can do."""

    code: ProblemCode
    message: str
    fix: str = ""
    nvml_index: int | None = None


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A program that holds memory of a GPU. memory_bytes: None where the driver does not tell."""

    pid: int
    name: str | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, or one MIG slice of one. nvml_index is not CUDA's index; the uuid names it for both.

    free_bytes: not held by anybody now, the driver's own share taken off.
    """

    nvml_index: int
    name: str
    uuid: str
    memory_bytes: int
    free_bytes: int
    compute_capability: tuple[int, int]
    power_limit_w: float | None = None
    pci_bus_id: str = ""
    mig_index: int | None = None  # a slice of GPU nvml_index
    processes: tuple[GpuProcess, ...] = ()

    @property
    def used_bytes(self) -> int:
        return self.memory_bytes - self.free_bytes


class LinkKind(StrEnum):
    """What two GPUs talk through, fastest first."""

    NVLINK = "nvlink"
    SAME_BOARD = "same_board"
    PCIE_SWITCH = "pcie_switch"
    PCIE_HOST = "pcie_host"  # through the processor's PCIe root
    NUMA = "numa"  # through other parts of the same socket
    SOCKETS = "sockets"  # from one processor socket to another


@dataclass(frozen=True, slots=True)
class Link:
    """The path between two GPUs. peer_access: whether one reads the other's memory directly."""

    first: int  # nvml_index, the smaller one
    second: int
    kind: LinkKind
    num_nvlinks: int = 0
    peer_access: bool | None = None


@dataclass(frozen=True, slots=True)
class ContainerRuntime:
    """A container engine that answers. has_gpu_runtime: it can hand NVIDIA GPUs to containers."""

    kind: str
    version: str
    has_gpu_runtime: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Everything the panel knows of one machine."""

    hostname: str
    os_name: str
    kernel: str
    architecture: str = "x86_64"
    python: str = ""
    cpu_name: str
    cpu_cores: int  # threads this program may use, a cgroup's quota taken into account
    cpu_flags: tuple[str, ...] = ()  # the kernel's names of those that matter to arithmetic
    ram_bytes: int  # physical, or a cgroup's limit if that is less
    ram_available_bytes: int
    shm_bytes: int = 0
    disk_free_bytes: int
    in_container: bool = False
    gpus: tuple[Gpu, ...] = ()
    links: tuple[Link, ...] = ()
    driver_version: str | None = None
    cuda_driver_version: str | None = None  # the newest CUDA that the driver runs, "12.8"
    container_runtime: ContainerRuntime | None = None
    problems: tuple[Problem, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON; `from_dict` gives an equal machine back."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], origin: str = "The machine") -> Self:
        """Read what `to_dict` wrote. Raises SettingsError that names the field at fault.

        origin: where the data came from, for the message.
        """
        return read_fields(cls, data, origin)

    def fingerprint(self) -> str:
        """The same for the same hardware and driver, whatever is running or free at the moment."""
        lasting = {
            "hostname": self.hostname,
            "os": self.os_name,
            "architecture": self.architecture,
            "cpu": [self.cpu_name, self.cpu_cores],
            "ram_gib": round(self.ram_bytes / _GIB),
            "gpus": [[gpu.name, gpu.uuid, gpu.memory_bytes] for gpu in self.gpus],
            "driver": self.driver_version,
        }
        text = json.dumps(lasting, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:FINGERPRINT_LETTERS]
