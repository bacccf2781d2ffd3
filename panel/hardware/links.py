"""How GPUs reach each other: NVLink, a PCIe switch, or through the processors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import pynvml

from panel.hardware.machine import Link, LinkKind

_KINDS = {
    pynvml.NVML_TOPOLOGY_INTERNAL: LinkKind.SAME_BOARD,
    pynvml.NVML_TOPOLOGY_SINGLE: LinkKind.PCIE_SWITCH,
    pynvml.NVML_TOPOLOGY_MULTIPLE: LinkKind.PCIE_SWITCH,
    pynvml.NVML_TOPOLOGY_HOSTBRIDGE: LinkKind.PCIE_HOST,
    pynvml.NVML_TOPOLOGY_NODE: LinkKind.NUMA,
}
# nvmlGpuP2PCapsIndex_t of nvml.h; in the Python binding some of these are tuples by a slip.
P2P_READ, P2P_NVLINK = 0, 2


def read_links(nvml: Any, handles: Mapping[int, Any]) -> tuple[Link, ...]:
    """The link of every two GPUs. handles: NVML's, by nvml_index. What a driver does not tell is
    taken to be the slowest."""
    if len(handles) < 2:
        return ()
    wires = {index: _wires(nvml, handle) for index, handle in handles.items()}
    pairs = combinations(sorted(handles), 2)
    return tuple(_link(nvml, handles, wires[a], a, b) for a, b in pairs)


def _link(nvml: Any, handles: Mapping[int, Any], wires: Counter[str], a: int, b: int) -> Link:
    pair = (handles[a], handles[b])
    reads = _peer_status(nvml, pair, P2P_READ)
    if _peer_status(nvml, pair, P2P_NVLINK):
        direct = wires[_bus_id(nvml, handles[b])]
        num_nvlinks = direct or wires.total()  # none direct: all go to a switch
        return Link(a, b, LinkKind.NVLINK, num_nvlinks, reads)
    try:
        ancestor = nvml.nvmlDeviceGetTopologyCommonAncestor(*pair)
    except nvml.NVMLError:
        ancestor = nvml.NVML_TOPOLOGY_SYSTEM
    return Link(a, b, _KINDS.get(ancestor, LinkKind.SOCKETS), 0, reads)


def _wires(nvml: Any, handle: Any) -> Counter[str]:
    """How many active NVLinks lead to each PCI address."""
    wires: Counter[str] = Counter()
    for number in range(nvml.NVML_NVLINK_MAX_LINKS):
        try:
            if nvml.nvmlDeviceGetNvLinkState(handle, number):
                wires[nvml.nvmlDeviceGetNvLinkRemotePciInfo(handle, number).busId] += 1
        except nvml.NVMLError:
            continue  # this GPU has no such link
    return wires


def _peer_status(nvml: Any, pair: tuple[Any, Any], capability: int) -> bool | None:
    try:
        return nvml.nvmlDeviceGetP2PStatus(*pair, capability) == nvml.NVML_P2P_STATUS_OK
    except nvml.NVMLError:
        return None


def _bus_id(nvml: Any, handle: Any) -> str:
    try:
        return nvml.nvmlDeviceGetPciInfo(handle).busId
    except nvml.NVMLError:
        return ""
