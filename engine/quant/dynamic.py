"""int8 Linear layers whose inputs are rounded to int8 as well, for whole-number products on a CPU.

Every token (row of x) has a scale of its own, so no request changes another's answer:

    y = (Σ qx · qw) · scale_x · scale_w        qx, qw whole numbers in −127 … 127, the sum exact

The sum is computed by the first kernel that is there and proves itself exact on random and extreme
numbers; as all of them are exact, the answer does not depend on the choice.
Source: Xiao et al., SmoothQuant, 2022, section 3 (per-token, per-channel scales).
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.footprint import LinearShape, WeightFormat, linear_bytes
from engine.quant.linear import Int8Rows, nonzero

_LIMIT = 127
_RETRACTED = (AttributeError, NotImplementedError, RuntimeError, TypeError)
"""What torch raises for an operator that this build, version or processor does not have."""


class Kernel(Protocol):
    """Holds one weight in its own layout."""

    name: str

    def __init__(self, weight: Tensor, scale: Tensor) -> None: ...

    def __call__(self, x: Tensor) -> Tensor:
        """x: [tokens, in] float32 in −127 … 127, rounded here. Returns round(x) · weight · scale,
        [tokens, out] float32."""
        ...


class Fbgemm:
    """fbgemm's packed product with the input's scale given, 2–3 times as fast as `_int_mm` for one
    token. torch 2.13 warns that the tensors of type qint8 that it is packed from will go one day;
    then the next kernel takes over."""

    name = "fbgemm"

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        zeros = torch.zeros(len(scale), dtype=torch.int64)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
            make = torch._make_per_channel_quantized_tensor  # pyright: ignore[reportPrivateImportUsage]  # torch.ops' own would warn past Python
            quantized = make(weight, scale.double(), zeros, 0)
            self._packed = torch.ops.quantized.linear_prepack(quantized, None)
        self._product = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32

    def __call__(self, x: Tensor) -> Tensor:
        return self._product(x, 1.0, 128, self._packed)


class IntMM:
    """torch's own product of int8 matrices (oneDNN)."""

    name = "int_mm"

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        self._weight, self._scale = weight.t(), scale

    def __call__(self, x: Tensor) -> Tensor:
        return (
            torch.ops.aten._int_mm(x.round().to(torch.int8), self._weight).float().mul_(self._scale)
        )


class Plain:
    """The product in float32, as exact as whole numbers are there (up to 2²⁴)."""

    name = "float32"

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        self._weight, self._scale = weight, scale

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x.round(), self._weight.float()).mul_(self._scale)


KERNELS: tuple[type[Kernel], ...] = (Fbgemm, IntMM, Plain)


@cache
def best_kernel() -> type[Kernel]:
    """The first of KERNELS that this torch has and that computes exactly on this processor."""
    return next(kernel for kernel in KERNELS if is_exact(kernel))


def is_exact(kernel: type[Kernel]) -> bool:
    """Whether its products are right. The extremes tell processors without VNNI, where some kernels
    add in 16 bits, which overflow."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-_LIMIT, _LIMIT + 1, (48, 600), generator=generator)
    x = torch.randint(-_LIMIT, _LIMIT + 1, (5, 600), generator=generator)
    weight[0], x[0] = _LIMIT, _LIMIT
    weight[1], x[1] = -_LIMIT, -_LIMIT
    scale = torch.rand(48, generator=generator) + 0.5
    expected = (x.double() @ weight.double().t() * scale.double()).float()
    try:
        product = kernel(weight.to(torch.int8), scale)
        results = (product(x.float()), torch.cat([product(row[None].float()) for row in x]))
    except _RETRACTED:
        return False
    return all(torch.allclose(result, expected, rtol=1e-5, atol=1e-3) for result in results)


class Int8DynamicLinear(Int8Rows):
    """weight: [out, in] int8 and scale: [out] float32, until `pack` gives them to a kernel."""

    has_head = True

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight, scale, bias)
        self._kernel: Kernel | None = None

    @classmethod
    def quantize(cls, weight: Tensor, bias: Tensor | None) -> Self:
        scale = nonzero(weight.abs().amax(1).float() / _LIMIT)
        quantized = (weight.float() / scale[:, None]).round_().clamp_(-_LIMIT, _LIMIT)
        return cls(quantized.to(torch.int8), scale, bias)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        assert self._kernel is None, "a packed weight is only multiplied with"
        return (self.weight * self.scale[:, None]).to(dtype)

    def pack(self) -> str:
        if self._kernel is None:
            kind = best_kernel()
            self._kernel = kind(self.weight, self.scale)
            if kind is Fbgemm:  # which keeps a copy of its own
                del self.weight, self.scale
        return self._kernel.name

    @property
    def packed_bytes(self) -> int:
        if not isinstance(self._kernel, Fbgemm):
            return 0
        shape = LinearShape(self.out_features, self.in_features)
        return linear_bytes(shape, WeightFormat.INT8_DYNAMIC)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features).float()
        scale = rows.abs().amax(-1, keepdim=True).clamp_(min=1e-30).div_(_LIMIT)
        product = self._kernel or Plain(self.weight, self.scale)
        output = product(rows / scale).mul_(scale).to(x.dtype)
        if self.bias is not None:
            output += self.bias
        return output.view(*x.shape[:-1], self.out_features)
