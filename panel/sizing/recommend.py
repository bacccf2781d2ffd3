"""Which of the offered models suit a machine, best first, and what to be honest about. Pure.

small tier  7B class, for development    16 GB of GPU memory, 32 GB of RAM
large tier  7B – 13B, for production     40 GB of GPU memory, 64 GB of RAM
"""

from __future__ import annotations

from dataclasses import dataclass

from panel.hardware.machine import Machine
from panel.models.catalog import Entry, Tier, catalog
from panel.models.shape import shape_of_config
from panel.sizing.fit import Fit, Note, Precision, Verdict, sizes
from panel.sizing.workload import Workload

_NOMINAL_SHARE = 0.92
"""A "16 GB" card reports 14.6 – 16.0 GiB, a machine with 32 GB of RAM some 31 GiB."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """What a tier asks for, in the gigabytes that memory is sold in."""

    gpu_gb: int
    ram_gb: int


REQUIREMENTS = {Tier.SMALL: Requirement(16, 32), Tier.LARGE: Requirement(40, 64)}

_GPU_ORDER = (Precision.BFLOAT16, Precision.INT8, Precision.INT4)
_CPU_ORDER = (Precision.FLOAT32, Precision.INT8, Precision.BFLOAT16, Precision.INT4)
_TIER_RANK = {Tier.LARGE: 0, Tier.SMALL: 1, Tier.DEMO: 2}


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One model in the precision that suits the machine; notes of the choice, not of the fit."""

    entry: Entry
    precision: Precision
    fit: Fit
    notes: tuple[Note, ...] = ()


def tier_of(machine: Machine) -> Tier:
    """The largest tier whose GPU memory and RAM this machine has; demo without a suitable GPU."""
    gpu_bytes = max((gpu.memory_bytes for gpu in machine.gpus), default=0)
    for tier in (Tier.LARGE, Tier.SMALL):
        asked = REQUIREMENTS[tier]
        has_gpu = gpu_bytes >= asked.gpu_gb * 1e9 * _NOMINAL_SHARE
        if has_gpu and machine.ram_bytes >= asked.ram_gb * 1e9 * _NOMINAL_SHARE:
            return tier
    return Tier.DEMO


def tier_notes(machine: Machine) -> tuple[Note, ...]:
    """Why this machine is below the small tier, if it is."""
    if tier_of(machine) is not Tier.DEMO:
        return ()
    if not machine.gpus:
        return (Note("cpu_only", {}),)
    asked = REQUIREMENTS[Tier.SMALL]
    has = {
        "has_gpu_gb": max(gpu.memory_bytes for gpu in machine.gpus) / 1e9,
        "has_ram_gb": machine.ram_bytes / 1e9,
    }
    return (Note("below_small_tier", {"gpu_gb": asked.gpu_gb, "ram_gb": asked.ram_gb, **has}),)


def recommend(machine: Machine, workload: Workload) -> tuple[Recommendation, ...]:
    """Every offered model that fits somehow, best first.

    Best: fits before tight; then the machine's own tier and below before larger tiers; then the
    larger tier; then the less quantized; then the catalog's order.
    """
    found = [r for entry in catalog() if (r := _choose(entry, machine, workload)) is not None]
    own = _TIER_RANK[tier_of(machine)]
    order = _GPU_ORDER if machine.gpus else _CPU_ORDER

    def rank(choice: Recommendation) -> tuple[bool, bool, int, int]:
        tier = _TIER_RANK[choice.entry.tier]
        is_tight = choice.fit.verdict is not Verdict.FITS
        return (is_tight, tier < own, tier, order.index(choice.precision))

    return tuple(sorted(found, key=rank))


def choose(fits: dict[Precision, Fit], has_gpu: bool) -> Precision | None:
    """The preferred precision that fits, else the first that fits tightly, else None."""
    order = _GPU_ORDER if has_gpu else _CPU_ORDER
    for verdict in (Verdict.FITS, Verdict.TIGHT):
        for precision in order:
            if fits[precision].verdict is verdict:
                return precision
    return None


def least_memory(machine: Machine, tier: Tier, workload: Workload) -> Fit:
    """The smallest that any offered model of a tier takes, whether or not it fits here."""
    shapes = (
        shape_of_config(entry.config, entry.name, counted=entry.counted)
        for entry in catalog()
        if entry.tier is tier
    )
    every = (fit for shape in shapes for fit in sizes(shape, machine, workload).values())
    return min(every, key=lambda fit: fit.total_bytes)


def _choose(entry: Entry, machine: Machine, workload: Workload) -> Recommendation | None:
    shape = shape_of_config(entry.config, entry.name, counted=entry.counted)
    fits = sizes(shape, machine, workload)
    precision = choose(fits, bool(machine.gpus))
    if precision is None:
        return None
    return Recommendation(entry, precision, fits[precision], honest_notes(fits, bool(machine.gpus)))


def honest_notes(fits: dict[Precision, Fit], has_gpu: bool) -> tuple[Note, ...]:
    """Say so where a GPU takes a model only quantized."""
    plain = fits[Precision.BFLOAT16]
    if not has_gpu or plain.verdict is not Verdict.TOO_LARGE:
        return ()
    smaller = [str(p) for p in _GPU_ORDER[1:] if fits[p].verdict is not Verdict.TOO_LARGE]
    values = {
        "weights_gib": plain.weight_bytes / 2**30,
        "capacity_gib": plain.capacity_bytes / 2**30,
        "device": plain.device_name,
        "precisions": " or ".join(smaller),
    }
    return (Note("bf16_needs_more", values),)
