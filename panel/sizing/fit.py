"""Does a model fit a device, and what is the most that would? Pure arithmetic on facts.

    total = weights + KV cache + activations + runtime     (engine/footprint.py allocates so)

A verdict comes with its error band, the largest context at the parallelism asked for, and the
largest parallelism at the context asked for. What a person should know besides is a `Note`: a code
with values, put into words by `wording.py` and by the pages' translations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

from engine import footprint
from engine.config import EngineConfig
from engine.footprint import DeviceKind
from panel.hardware.machine import Machine
from panel.models.shape import ModelShape
from panel.sizing.device import Device, device_of
from panel.sizing.need import Need, Precision, compute_dtype
from panel.sizing.workload import MAX_PARALLEL, Workload

TIGHT_SHARE = 0.05
"""Less headroom than this share of the capacity is called tight."""

SLOW_ON_CPU_PARAMS = 2_000_000_000
"""A larger model gives fewer than about five tokens a second on an ordinary processor: each token
reads all weights, 8 GB in float32 at some 40 GB/s."""


class Verdict(StrEnum):
    FITS = "fits"
    TIGHT = "tight"
    TOO_LARGE = "too_large"


@dataclass(frozen=True, slots=True)
class Note:
    """Something to know about a fit: a stable code and the numbers or names that belong to it."""

    code: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What one model in one precision needs on one device for one workload.

    error_bytes: the total may be off by so much, either way. headroom_bytes: budget - total.
    max_context_tokens: largest context at the parallelism asked for; 0 if not even 1 block fits.
    max_parallel_requests: most requests of the context asked for; 0 if not even one fits.
    """

    precision: Precision
    verdict: Verdict
    device_name: str
    capacity_bytes: int
    budget_bytes: int
    weight_bytes: int
    kv_bytes: int
    activation_bytes: int
    runtime_bytes: int
    total_bytes: int
    error_bytes: int
    headroom_bytes: int
    kv_bytes_per_token: int
    max_context_tokens: int
    max_parallel_requests: int
    notes: tuple[Note, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        enums = {
            "precision": Precision(values["precision"]),
            "verdict": Verdict(values["verdict"]),
            "notes": tuple(Note(**note) for note in values.get("notes", ())),
        }
        return cls(**{**values, **enums})


def sizes(
    shape: ModelShape, machine: Machine, workload: Workload, gpu: int | None = None
) -> dict[Precision, Fit]:
    """The fit in every precision."""
    return {p: size(shape, machine, workload, p, gpu) for p in Precision}


def size(
    shape: ModelShape,
    machine: Machine,
    workload: Workload,
    precision: Precision,
    gpu: int | None = None,
) -> Fit:
    """Predict one deployment's memory and judge it.

    gpu: NVML index; None takes the GPU with most free memory, or the CPU where there is none.
    """
    device = device_of(machine, gpu)
    need = Need.of(shape, workload, precision, device)
    headroom = device.budget_bytes - need.total_bytes
    return Fit(
        precision=precision,
        verdict=_verdict(shape, workload, headroom, need.error_bytes, device.capacity_bytes),
        device_name=device.name,
        capacity_bytes=device.capacity_bytes,
        budget_bytes=device.budget_bytes,
        weight_bytes=need.weight_bytes,
        kv_bytes=need.kv_bytes,
        activation_bytes=need.activation_bytes,
        runtime_bytes=need.runtime_bytes,
        total_bytes=need.total_bytes,
        error_bytes=need.error_bytes,
        headroom_bytes=headroom,
        kv_bytes_per_token=shape.kv_bytes_per_token(compute_dtype(precision, device.kind)),
        max_context_tokens=_max_context(shape, workload, precision, device),
        max_parallel_requests=_max_parallel(shape, workload, precision, device),
        notes=_notes(shape, workload, precision, device),
    )


def _verdict(
    shape: ModelShape, workload: Workload, headroom: int, error: int, capacity: int
) -> Verdict:
    if headroom < 0 or workload.context_tokens > shape.max_positions:
        return Verdict.TOO_LARGE
    if headroom < error or headroom < TIGHT_SHARE * capacity:
        return Verdict.TIGHT
    return Verdict.FITS


def _max_context(
    shape: ModelShape, workload: Workload, precision: Precision, device: Device
) -> int:
    """Largest context, in whole blocks unless the model's own limit is lower."""
    block, limit = EngineConfig.block_size, shape.max_positions

    def fits(blocks: int) -> bool:
        tokens = min(blocks * block, limit)
        asked = Workload(max(tokens, 16), workload.parallel_requests)
        return Need.of(shape, asked, precision, device).total_bytes <= device.budget_bytes

    blocks = _largest(fits, footprint.blocks_for(limit, block))
    return min(blocks * block, limit)


def _max_parallel(
    shape: ModelShape, workload: Workload, precision: Precision, device: Device
) -> int:
    def fits(requests: int) -> bool:
        asked = Workload(workload.context_tokens, requests)
        return Need.of(shape, asked, precision, device).total_bytes <= device.budget_bytes

    return _largest(fits, MAX_PARALLEL)


def _largest(fits: Callable[[int], bool], limit: int) -> int:
    """The largest number in 1 … limit for which `fits` holds, by halving; 0 if it never does.

    `fits` must be true up to some number and false from there on.
    """
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _notes(
    shape: ModelShape, workload: Workload, precision: Precision, device: Device
) -> tuple[Note, ...]:
    found: list[Note] = []

    def note(condition: object, code: str, **values: Any) -> None:
        if condition:
            found.append(Note(code, values))

    limit, on_cpu = shape.max_positions, device.kind is DeviceKind.CPU
    is_bfloat16 = compute_dtype(precision, device.kind) == "bfloat16"
    note(workload.context_tokens > limit, "context_beyond_model", max_positions=limit)
    is_slow = on_cpu and shape.num_params > SLOW_ON_CPU_PARAMS
    note(is_slow, "cpu_is_slow", num_params=shape.num_params)
    note(on_cpu and is_bfloat16 and not device.has_bfloat16, "cpu_without_bfloat16")
    note(not on_cpu and is_bfloat16 and not device.has_bfloat16, "gpu_without_bfloat16")
    note(
        shape.num_sliding_layers,
        "sliding_window",
        window=shape.sliding_window,
        num_layers=shape.num_sliding_layers,
    )
    note(
        shape.latent_width,
        "latent_kv",
        bytes_per_token=shape.compressed_kv_bytes_per_token(compute_dtype(precision, device.kind)),
    )
    quantized = precision in (Precision.INT8, Precision.INT4)
    note(quantized and shape.num_experts, "experts_not_quantized", num_experts=shape.num_experts)
    note(shape.quant_method, "quantized_checkpoint", method=shape.quant_method)
    note(shape.has_vision, "vision_not_sized")
    note(shape.num_kv_layers < shape.num_layers, "hybrid_layers", num_kv_layers=shape.num_kv_layers)
    return tuple(found)
