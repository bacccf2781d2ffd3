"""The limits of the control groups that this process is in, versions 1 and 2.

A limit anywhere between the process's own group and the top binds, so all of them are read. Inside
a container the path in /proc/self/cgroup may be the host's; then only the mounted top is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_UNLIMITED = 2**60  # version 1 writes a number near 2**63 for "no limit"


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """What a group may use, and what of that is left now."""

    limit_bytes: int
    available_bytes: int


@dataclass(frozen=True, slots=True)
class _Files:
    """The names that a version of cgroups gives to the same things."""

    limit: str
    usage: str
    reclaimable: str  # a key of memory.stat: file pages that go when memory is needed


_V1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Files("memory.max", "memory.current", "inactive_file")


def memory_limit(root: Path = Path("/")) -> MemoryLimit | None:
    """The tightest memory limit; None where there is none. root: of the file system, for tests."""
    limits = [_memory(folder, _V2) for folder in _folders(root, "")]
    limits += [_memory(folder, _V1) for folder in _folders(root, "memory")]
    found = [limit for limit in limits if limit is not None]
    if not found:
        return None
    return MemoryLimit(
        min(limit.limit_bytes for limit in found), min(limit.available_bytes for limit in found)
    )


def cpu_quota(root: Path = Path("/")) -> float | None:
    """How many processors' time may be used, 1.5 say; None where that is not limited."""
    quotas = [_ratio(_words(folder / "cpu.max")) for folder in _folders(root, "")]
    for folder in _folders(root, "cpu"):
        files = (folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")
        quotas.append(_ratio([word for file in files for word in _words(file)]))
    return min((quota for quota in quotas if quota is not None), default=None)


def path_of_this_process(root: Path = Path("/")) -> str:
    """What /proc/self/cgroup says, all of it: container engines can be known by it."""
    return _text(root / "proc/self/cgroup")


def _folders(root: Path, controller: str) -> list[Path]:
    """The folders of this process's group and those above it. controller: "" means version 2."""
    mounts = [root / "sys/fs/cgroup" / controller]
    if not controller:
        mounts.append(root / "sys/fs/cgroup/unified")
    path = _own_path(root, controller)
    folders = []
    for mount in mounts:
        own = mount / path.strip("/")
        folders += [f for f in (own, *own.parents) if f.is_relative_to(mount) and f.is_dir()]
    return folders


def _own_path(root: Path, controller: str) -> str:
    for line in path_of_this_process(root).splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path
    return "/"


def _memory(folder: Path, files: _Files) -> MemoryLimit | None:
    limit = _number(folder / files.limit)
    if limit is None or limit >= _UNLIMITED:
        return None
    stat = dict(line.split(" ", 1) for line in _text(folder / "memory.stat").splitlines())
    used = (_number(folder / files.usage) or 0) - int(stat.get(files.reclaimable, 0))
    return MemoryLimit(limit, max(0, limit - max(0, used)))


def _ratio(words: list[str]) -> float | None:
    """Quota over period; "max" or -1 for the quota means none."""
    if len(words) != 2 or not words[0].isdigit():
        return None
    return int(words[0]) / int(words[1])


def _number(file: Path) -> int | None:
    words = _words(file)
    return int(words[0]) if words and words[0].isdigit() else None


def _words(file: Path) -> list[str]:
    return _text(file).split()


def _text(file: Path) -> str:
    """The file's text, or nothing where it is missing or forbidden: then it limits nothing."""
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
