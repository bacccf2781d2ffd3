"""Linear layers with weights of 4 bits in groups of columns, weight-only.

    w ≈ (q − zero) · scale,    q in 0 … 15, zero a number of 0 … 15, both for each group of a row

Scales and zeros take 16 bits each whatever the computing type. A CPU computes straight from the
4 bits, with inputs and results rounded to bfloat16, if torch's kernel proves itself there;
elsewhere, and before `pack`, the weights are turned back into numbers for every product.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.footprint import INT4_GROUP
from engine.quant.linear import QuantizedLinear, concatenate_bias, nonzero

_ROWS = 16
"""torch's kernel takes rows in this many."""
_GROUPS = (32, 64, 128, 256)


class Int4Linear(QuantizedLinear):
    """packed: [out, groups, size / 2] uint8, two weights a byte, the low half first.

    scale, zero: [out, groups, 1] in 16 bits. Rows are padded to whole groups.
    """

    packed: Tensor
    scale: Tensor
    zero: Tensor

    def __init__(
        self, packed: Tensor, scale: Tensor, zero: Tensor, in_features: int, bias: Tensor | None
    ) -> None:
        super().__init__(in_features, packed.shape[0], bias)
        self.register_buffer("packed", packed)
        self.register_buffer("scale", scale)
        self.register_buffer("zero", zero)
        self.group_size = 2 * packed.shape[-1]
        self._is_packed = False

    @classmethod
    def quantize(cls, weight: Tensor, bias: Tensor | None) -> Self:
        out_features, in_features = weight.shape
        groups = F.pad(weight.float(), (0, -in_features % INT4_GROUP))
        groups = groups.view(out_features, -1, INT4_GROUP)
        low = groups.amin(-1, keepdim=True).clamp_(max=0)
        high = groups.amax(-1, keepdim=True).clamp_(min=0)
        kept = torch.float16 if weight.dtype is torch.float16 else torch.bfloat16
        scale = nonzero((high - low) / 15).to(kept)
        zero = (-low / scale.float()).round_().clamp_(0, 15)
        codes = (groups / scale.float() + zero).round_().clamp_(0, 15).to(torch.uint8)
        return cls.from_codes(codes, scale, zero.to(kept), in_features, bias)

    @classmethod
    def from_codes(
        cls, codes: Tensor, scale: Tensor, zero: Tensor, in_features: int, bias: Tensor | None
    ) -> Self:
        """codes: [out, groups, size] of 0 … 15; scale, zero: [out, groups, 1]."""
        codes = codes.to(torch.uint8)
        return cls(codes[..., 0::2] | codes[..., 1::2] << 4, scale, zero, in_features, bias)

    @classmethod
    def concatenate(cls, layers: Sequence[Any]) -> Self:
        packed, scale, zero = (
            torch.cat([getattr(layer, name) for layer in layers])
            for name in ("packed", "scale", "zero")
        )
        return cls(packed, scale, zero, layers[0].in_features, concatenate_bias(layers))

    @property
    def codes(self) -> Tensor:
        """[out, groups, size] uint8."""
        return torch.stack((self.packed & 15, self.packed >> 4), -1).flatten(-2)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        assert not self._is_packed, "a packed weight is only multiplied with"
        weight = (self.codes.to(dtype) - self.zero.to(dtype)) * self.scale.to(dtype)
        return weight.flatten(1)[:, : self.in_features]

    def pack(self) -> str:
        """Afterwards packed is torch's, and scale its scales and zeros, [groups, out, 2]."""
        if self._is_packed:
            return "int4pack_mm"
        if self.packed.device.type != "cpu" or not is_right(self.group_size):
            return "torch"
        self.packed, self.scale, self.zero = _pack(self.codes, self.scale, self.zero)
        self._is_packed = True
        return "int4pack_mm"

    def forward(self, x: Tensor) -> Tensor:
        if not self._is_packed:
            return super().forward(x)
        rows = x.reshape(-1, self.in_features).bfloat16()
        rows = F.pad(rows, (0, self.group_size * self.scale.shape[0] - self.in_features))
        output = _product(rows, self.packed, self.group_size, self.scale)
        output = output[:, : self.out_features].to(x.dtype)
        if self.bias is not None:
            output = output + self.bias
        return output.reshape(*x.shape[:-1], self.out_features)


def _pack(codes: Tensor, scale: Tensor, zero: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """torch computes (q − 8) · scale + shift."""
    more = -codes.shape[0] % _ROWS
    shift = (8 - zero.float()) * scale.float()
    both = torch.cat((scale.float(), shift), -1).bfloat16()  # [out, groups, 2]
    both = F.pad(both, (0, 0, 0, 0, 0, more)).transpose(0, 1).contiguous()
    padded = F.pad(codes.flatten(1), (0, 0, 0, more)).int()
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(padded, 1)
    return packed, both, zero.new_empty(0)


def _product(x: Tensor, packed: Tensor, group_size: int, scale: Tensor) -> Tensor:
    return torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed, group_size, scale)


@cache
def is_right(group_size: int) -> bool:
    """Whether torch's kernel is here and computes what the dequantized weights compute, within
    bfloat16's rounding."""
    if group_size not in _GROUPS:
        return False
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 3 * group_size, generator=generator)
    groups = weight.view(40, 3, group_size)
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scale = ((high - low) / 15).bfloat16()
    zero = (-low / scale.float()).round().clamp(0, 15)
    codes = (groups / scale.float() + zero).round().clamp(0, 15)
    expected = ((codes - zero) * scale.float()).flatten(1)
    x = torch.randn(5, 3 * group_size, generator=generator).bfloat16()
    try:
        packed, both, _ = _pack(codes.to(torch.uint8), scale, zero.bfloat16())
        results = [_product(rows, packed, group_size, both)[:, :40] for rows in (x, x[:1])]
    except (AttributeError, NotImplementedError, RuntimeError):
        return False
    exact, bound = x.float() @ expected.t(), 2**-6 * x.float().abs() @ expected.abs().t()
    errors = [(result.float() - exact[: len(result)]).abs() for result in results]
    return all(bool((error <= bound[: len(error)]).all()) for error in errors)
