"""What one deployment needs, in four parts: weights, KV cache, activations, runtime. Pure.

The formulas are those of `engine/footprint.py`, by which the engine allocates; here they are given
a model's shape, and an error band.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from engine import footprint
from engine.config import EngineConfig
from engine.footprint import DeviceKind, WeightFormat
from panel.models.shape import ModelShape
from panel.sizing.device import Device
from panel.sizing.workload import Workload

_ERROR_SHARES = {"weights": 0.015, "kv": 0.0, "activations": 0.25, "runtime": 0.35}
"""How far each part may be off. Weights: public reports of engines are 0.0 – 1.5 % above the
tensors' bytes (allocator rounding, buffers; one of 2.5 %). KV is allocated to the byte. Activations
and runtime depend on kernels and driver and await calibration by past starts."""


class Precision(StrEnum):
    """How the weights are kept; int8 and int4 quantize the layers' Linear weights at load."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"
    INT4 = "int4"


def compute_dtype(precision: Precision, kind: DeviceKind) -> str:
    """The type of activations and KV: the weights' own; under int8 and int4 the device's usual."""
    if precision in (Precision.FLOAT32, Precision.BFLOAT16):
        return str(precision)
    return "float32" if kind is DeviceKind.CPU else "bfloat16"


@dataclass(frozen=True, slots=True)
class Need:
    """The four parts of one deployment's memory, in bytes."""

    weight_bytes: int
    kv_bytes: int
    activation_bytes: int
    runtime_bytes: int

    @classmethod
    def of(
        cls, shape: ModelShape, workload: Workload, precision: Precision, device: Device
    ) -> Self:
        dtype, block_size = compute_dtype(precision, device.kind), EngineConfig.block_size
        num_blocks = footprint.num_kv_blocks(
            workload.parallel_requests, workload.context_tokens, block_size
        )
        return cls(
            weight_bytes=footprint.weight_bytes(
                shape.num_params, WeightFormat(precision), linears=shape.linears, dtype=dtype
            ),
            kv_bytes=footprint.kv_bytes(num_blocks, block_size, shape.kv_bytes_per_token(dtype)),
            activation_bytes=_activation_bytes(shape, workload, dtype),
            runtime_bytes=footprint.runtime_bytes(device.kind),
        )

    @property
    def total_bytes(self) -> int:
        return self.weight_bytes + self.kv_bytes + self.activation_bytes + self.runtime_bytes

    @property
    def error_bytes(self) -> int:
        shares = _ERROR_SHARES
        return int(
            self.weight_bytes * shares["weights"]
            + self.kv_bytes * shares["kv"]
            + self.activation_bytes * shares["activations"]
            + self.runtime_bytes * shares["runtime"]
        )


def _activation_bytes(shape: ModelShape, workload: Workload, dtype: str) -> int:
    """One step's peak, with the reference attention's scratch, as engine/worker reserves it."""
    step_tokens, head_dim = EngineConfig.max_batch_tokens, max(shape.head_dim, shape.v_head_dim)
    scratch = footprint.reference_attention_bytes(
        max_batch_tokens=step_tokens,
        max_seq_length=workload.context_tokens,
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        head_dim=head_dim,
        dtype=dtype,
    )
    return footprint.activation_bytes(
        max_batch_tokens=step_tokens,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        vocab_size=shape.vocab_size,
        dtype=dtype,
        num_sampled=min(workload.parallel_requests, step_tokens),
        attention_width=(shape.num_heads + 2 * shape.num_kv_heads) * head_dim,
        attention_scratch_bytes=scratch,
    )
