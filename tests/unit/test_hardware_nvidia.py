"""Every GPU that answers is listed with its facts; every one that does not is named with a fix."""

from __future__ import annotations

import pynvml
import pytest

from panel.hardware.machine import GpuProcess, Link, LinkKind, ProblemCode
from panel.hardware.nvidia import read_nvidia
from tests.unit.fake_nvml import GIB, FakeGpu, FakeNvml

T4 = FakeGpu("Tesla T4", 15, (7, 5), power_w=70)
A10 = FakeGpu("NVIDIA A10", 22.5, (8, 6), power_w=150)
RTX4090 = FakeGpu("NVIDIA GeForce RTX 4090", 23.99, (8, 9), used_gib=1.5, power_w=450)


def h100(number: int, wires: list[str]) -> FakeGpu:
    bus = f"0000:{number:02d}:00.0"
    return FakeGpu(
        "NVIDIA H100 80GB HBM3", 79.6, (9, 0), bus=bus, uuid=f"GPU-{number}", wires=wires
    )


@pytest.mark.parametrize("gpu", [T4, A10, RTX4090], ids=lambda gpu: gpu.name)
def test_a_gpu_is_described(gpu: FakeGpu) -> None:
    nvml = FakeNvml(gpu)
    facts = read_nvidia(nvml)
    (found,) = facts.gpus
    assert (found.nvml_index, found.name, found.uuid) == (0, gpu.name, "GPU-1")
    assert (found.compute_capability, found.power_limit_w) == (gpu.capability, gpu.power_w)
    assert found.memory_bytes == int(gpu.memory_gib * GIB)
    assert found.used_bytes == int(gpu.used_gib * GIB)
    assert (facts.driver_version, facts.cuda_driver_version) == ("550.90.07", "12.4")
    assert (facts.problems, facts.links, nvml.is_open) == ((), (), False)


def test_programs_on_the_gpu_are_listed_once_with_what_the_driver_tells() -> None:
    gpu = FakeGpu("NVIDIA A10", 22.5, (8, 6), compute={7: GIB, 1: None}, graphics={7: GIB, 9: 5})
    (found,) = read_nvidia(FakeNvml(gpu)).gpus
    assert found.processes == (
        GpuProcess(1, None, None),
        GpuProcess(7, "/usr/bin/program7", GIB),
        GpuProcess(9, "/usr/bin/program9", 5),
    )


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, ProblemCode.NO_DRIVER),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, ProblemCode.DRIVER_NOT_LOADED),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, ProblemCode.DRIVER_MISMATCH),
        (pynvml.NVML_ERROR_NO_PERMISSION, ProblemCode.NO_PERMISSION),
        (pynvml.NVML_ERROR_UNKNOWN, ProblemCode.GPU_FAILED),
    ],
)
def test_a_driver_that_does_not_answer_gives_no_gpus_and_the_reason(
    error: int, code: ProblemCode
) -> None:
    facts = read_nvidia(FakeNvml(T4, nvmlInit=error))
    assert facts.gpus == ()
    (problem,) = facts.problems
    assert problem.code is code
    assert problem.message
    assert problem.fix


def test_a_driver_without_a_gpu_says_so() -> None:
    assert [p.code for p in read_nvidia(FakeNvml()).problems] == [ProblemCode.NO_GPU]


@pytest.mark.parametrize(
    ("function", "error", "code"),
    [
        ("nvmlDeviceGetHandleByIndex", pynvml.NVML_ERROR_GPU_IS_LOST, ProblemCode.GPU_LOST),
        ("nvmlDeviceGetMemoryInfo", pynvml.NVML_ERROR_UNKNOWN, ProblemCode.GPU_FAILED),
        ("nvmlDeviceGetName", pynvml.NVML_ERROR_NO_PERMISSION, ProblemCode.NO_PERMISSION),
    ],
)
def test_a_broken_gpu_is_named_and_the_others_are_listed(
    function: str, error: int, code: ProblemCode
) -> None:
    broken = FakeGpu("NVIDIA A10", 22.5, (8, 6), errors={function: error})
    facts = read_nvidia(FakeNvml(T4, broken, RTX4090))
    assert [gpu.nvml_index for gpu in facts.gpus] == [0, 2]
    (problem,) = facts.problems
    assert (problem.code, problem.nvml_index) == (code, 1)
    assert "GPU 1" in problem.message


@pytest.mark.parametrize(
    "function",
    [
        "nvmlDeviceGetEnforcedPowerLimit",
        "nvmlDeviceGetPciInfo",
        "nvmlDeviceGetComputeRunningProcesses",
        "nvmlDeviceGetGraphicsRunningProcesses",
    ],
)
def test_what_a_gpu_cannot_tell_is_left_out(function: str) -> None:
    errors = {function: pynvml.NVML_ERROR_NOT_SUPPORTED}
    facts = read_nvidia(FakeNvml(FakeGpu("NVIDIA A10", 22.5, (8, 6), errors=errors)))
    assert (len(facts.gpus), facts.problems) == (1, ())


def test_the_slices_of_a_gpu_stand_in_its_place() -> None:
    one = FakeGpu("NVIDIA A100 MIG 3g.20gb", 19.5, (0, 0), uuid="MIG-1")
    two = FakeGpu("NVIDIA A100 MIG 1g.5gb", 4.75, (0, 0), uuid="MIG-2")
    whole = FakeGpu("NVIDIA A100", 39.5, (8, 0), slices=[one, None, two])
    found = read_nvidia(FakeNvml(whole)).gpus
    assert [(g.nvml_index, g.mig_index, g.uuid) for g in found] == [
        (0, 0, "MIG-1"),
        (0, 2, "MIG-2"),
    ]
    assert [g.compute_capability for g in found] == [(8, 0), (8, 0)]
    assert found[1].memory_bytes == int(4.75 * GIB)


def test_a_gpu_cut_into_no_slices_is_a_problem() -> None:
    facts = read_nvidia(FakeNvml(FakeGpu("NVIDIA A100", 39.5, (8, 0), slices=[])))
    assert facts.gpus == ()
    assert [p.code for p in facts.problems] == [ProblemCode.NO_MIG_SLICE]


def test_gpus_wired_to_each_other_count_the_wires_between_them() -> None:
    first, second = h100(1, ["0000:02:00.0"] * 4 + ["0000:03:00.0"] * 2), h100(2, ["x"])
    assert read_nvidia(FakeNvml(first, second)).links == (Link(0, 1, LinkKind.NVLINK, 4, True),)


def test_gpus_wired_to_a_switch_count_all_wires() -> None:
    switch = ["0000:0a:00.0"] * 18
    nvml = FakeNvml(h100(1, switch), h100(2, switch))
    assert read_nvidia(nvml).links == (Link(0, 1, LinkKind.NVLINK, 18, True),)


@pytest.mark.parametrize(
    ("ancestor", "kind"),
    [
        (pynvml.NVML_TOPOLOGY_SINGLE, LinkKind.PCIE_SWITCH),
        (pynvml.NVML_TOPOLOGY_HOSTBRIDGE, LinkKind.PCIE_HOST),
        (pynvml.NVML_TOPOLOGY_NODE, LinkKind.NUMA),
        (pynvml.NVML_TOPOLOGY_SYSTEM, LinkKind.SOCKETS),
    ],
)
def test_gpus_without_nvlink_are_linked_through_pcie(ancestor: int, kind: LinkKind) -> None:
    (link,) = read_nvidia(FakeNvml(T4, A10, peers=ancestor)).links
    assert (link.kind, link.num_nvlinks, link.peer_access) == (kind, 0, True)


def test_a_driver_that_tells_nothing_of_links_gives_the_slowest() -> None:
    silent = dict.fromkeys(
        ("nvmlDeviceGetP2PStatus", "nvmlDeviceGetTopologyCommonAncestor"),
        pynvml.NVML_ERROR_NOT_SUPPORTED,
    )
    facts = read_nvidia(FakeNvml(T4, A10, **silent))
    assert facts.links == (Link(0, 1, LinkKind.SOCKETS, 0, None),)
