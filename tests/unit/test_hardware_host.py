"""The host's facts come from its files, with the limits of its control groups taken off."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from panel.hardware import cgroup, host

GIB = 2**30
MEMINFO = f"MemTotal: {64 * 2**20} kB\nMemFree: 1 kB\nMemAvailable: {48 * 2**20} kB\n"
CPUINFO = "model name\t: AMD EPYC 7742\nflags\t\t: fpu avx2 avx512f avx512_bf16 amx_bf16\n"


def make(root: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


def test_without_limits_the_whole_machine_counts(tmp_path: Path) -> None:
    make(tmp_path, {"proc/meminfo": MEMINFO, "proc/cpuinfo": CPUINFO})
    assert host.read_memory(tmp_path) == host.Memory(64 * GIB, 48 * GIB)
    cpu = host.read_cpu(tmp_path)
    assert (cpu.name, cpu.cores) == ("AMD EPYC 7742", len(os.sched_getaffinity(0)))
    assert cpu.flags == ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    assert cgroup.memory_limit(tmp_path) is None
    assert cgroup.cpu_quota(tmp_path) is None


def test_version_2_limits_of_the_group_and_those_above_it_count(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/system.slice/panel.service"
    files = {
        "proc/meminfo": MEMINFO,
        "proc/cpuinfo": CPUINFO,
        "proc/self/cgroup": "0::/system.slice/panel.service",
        f"{group}/memory.max": "max",
        f"{group}/cpu.max": "50000 100000",
        "sys/fs/cgroup/system.slice/memory.max": 8 * GIB,
        "sys/fs/cgroup/system.slice/memory.current": 5 * GIB,
        "sys/fs/cgroup/system.slice/memory.stat": f"anon 5\ninactive_file {2 * GIB}",
        "sys/fs/cgroup/system.slice/cpu.max": "max 100000",
    }
    make(tmp_path, files)
    assert host.read_memory(tmp_path) == host.Memory(8 * GIB, 5 * GIB)
    assert cgroup.cpu_quota(tmp_path) == 0.5
    assert host.read_cpu(tmp_path).cores == 1


def test_version_1_limits_count_also_where_the_path_is_the_hosts(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "9:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": 2 * GIB,
        "sys/fs/cgroup/memory/memory.usage_in_bytes": GIB,
        "sys/fs/cgroup/memory/memory.stat": f"total_inactive_file {GIB // 2}",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": 150000,
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": 100000,
    }
    make(tmp_path, files)
    assert host.read_memory(tmp_path) == host.Memory(2 * GIB, GIB + GIB // 2)
    assert cgroup.cpu_quota(tmp_path) == 1.5
    assert host.is_in_container(tmp_path)


def test_version_1_writes_no_limit_as_a_huge_number(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "9:memory:/",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": 9223372036854771712,
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": -1,
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": 100000,
    }
    make(tmp_path, files)
    assert host.read_memory(tmp_path).total_bytes == 64 * GIB
    assert cgroup.cpu_quota(tmp_path) is None


def test_a_limit_above_the_machines_memory_does_not_add_any(tmp_path: Path) -> None:
    files = {"proc/meminfo": MEMINFO, "sys/fs/cgroup/memory.max": 900 * GIB}
    assert host.read_memory(make(tmp_path, files)) == host.Memory(64 * GIB, 48 * GIB)


@pytest.mark.parametrize("mark", [".dockerenv", "run/.containerenv"])
def test_a_container_is_known_by_its_mark(tmp_path: Path, mark: str) -> None:
    assert not host.is_in_container(tmp_path)
    assert host.is_in_container(make(tmp_path, {mark: ""}))


def test_an_empty_file_system_gives_what_can_be_known_otherwise(tmp_path: Path) -> None:
    assert host.read_memory(tmp_path).total_bytes > 0
    assert host.read_cpu(tmp_path).name
    assert host.read_os_name(tmp_path) == "Linux"
    assert host.shm_bytes(tmp_path) == 0


def test_the_system_is_named_as_it_names_itself(tmp_path: Path) -> None:
    text = 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 24.04.1 LTS"'
    assert host.read_os_name(make(tmp_path, {"etc/os-release": text})) == "Ubuntu 24.04.1 LTS"


def test_an_arm_processor_is_described(tmp_path: Path) -> None:
    text = "Features\t: fp asimd bf16 i8mm"
    cpu = host.read_cpu(make(tmp_path, {"proc/cpuinfo": text}))
    assert cpu.flags == ("asimd", "i8mm", "bf16")
    assert cpu.name


def test_the_space_for_a_folder_that_is_not_there_yet_is_that_of_its_disk(tmp_path: Path) -> None:
    there, not_yet = (host.disk_free_bytes(p) for p in (tmp_path, tmp_path / "a" / "b"))
    assert there == pytest.approx(not_yet, rel=0.05)
    assert host.disk_free_bytes(Path("relative/folder")) > 0
