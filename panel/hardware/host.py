"""Facts of the host from /proc, /sys and the file system: processor, memory, disk, name.

A missing file makes a fact unknown or falls back to the next best source; it is never an error.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil

from panel.hardware import cgroup

ROOT = Path("/")
# Kernel names of what speeds up matrix arithmetic: x86 first, then Arm.
CPU_FLAGS = (
    *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)
_CONTAINER_FILES = (".dockerenv", "run/.containerenv")
_CONTAINER_GROUPS = re.compile(r"docker|kubepods|containerd|libpod|lxc|garden")


@dataclass(frozen=True, slots=True)
class Cpu:
    """name: as the maker writes it. cores: threads this process may run on at once."""

    name: str
    cores: int
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Memory:
    """What this process may use, and what of that is not in use now."""

    total_bytes: int
    available_bytes: int


def read_cpu(root: Path = ROOT) -> Cpu:
    text = _text(root / "proc/cpuinfo")
    name = _field(text, "model name") or _field(text, "Model") or platform.processor()
    flags = set((_field(text, "flags") or _field(text, "Features") or "").split())
    cores = len(os.sched_getaffinity(0))
    quota = cgroup.cpu_quota(root)
    if quota is not None:
        cores = min(cores, max(1, round(quota)))
    known = tuple(flag for flag in CPU_FLAGS if flag in flags)
    return Cpu(name or platform.machine(), cores, known)


def read_memory(root: Path = ROOT) -> Memory:
    text = _text(root / "proc/meminfo")
    total, available = _kibibytes(text, "MemTotal"), _kibibytes(text, "MemAvailable")
    if total is None or available is None:
        seen = psutil.virtual_memory()
        total, available = seen.total, seen.available
    limit = cgroup.memory_limit(root)
    if limit is not None:
        total = min(total, limit.limit_bytes)
        available = min(available, limit.available_bytes)
    return Memory(total, available)


def read_os_name(root: Path = ROOT) -> str:
    """As /etc/os-release says it: "Debian GNU/Linux 12 (bookworm)"."""
    for name in ("etc/os-release", "usr/lib/os-release"):
        found = re.search(r'^PRETTY_NAME="?([^"\n]*)', _text(root / name), re.MULTILINE)
        if found:
            return found[1]
    return platform.system()


def shm_bytes(root: Path = ROOT) -> int:
    """Size of /dev/shm, through which the ranks of one engine talk; 64 MiB in a plain container."""
    folder = root / "dev/shm"
    return shutil.disk_usage(folder).total if folder.is_dir() else 0


def disk_free_bytes(path: Path) -> int:
    """What may be written at `path`, which need not exist yet."""
    existing = next((p for p in (path, *path.parents) if p.exists()), ROOT)
    return shutil.disk_usage(existing).free


def is_in_container(root: Path = ROOT) -> bool:
    has_mark = any((root / name).exists() for name in _CONTAINER_FILES)
    return has_mark or bool(_CONTAINER_GROUPS.search(cgroup.path_of_this_process(root)))


def _field(text: str, name: str) -> str | None:
    found = re.search(rf"^{re.escape(name)}\s*:\s*(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else None


def _kibibytes(text: str, name: str) -> int | None:
    value = _field(text, name)
    return int(value.split()[0]) * 1024 if value else None


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
