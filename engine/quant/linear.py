"""Linear layers whose weights are stored in 8 or 4 bits and computed in the model's own type.

Weight-only: activations are never rounded. A scale is first rounded to the computing type and the
weights are then rounded with that very scale, so the scale's own rounding adds no error:

    int8   w ≈ q · scale,             q in −127 … 127,  one scale a row      |error| ≤ scale / 2
    int4   w ≈ (q − zero) · scale,    q in 0 … 15,      a scale and a zero for 128 columns of a row
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.footprint import INT4_GROUP


class QuantizedLinear(nn.Module):
    """Base: shape, bias, and a forward that turns the weights back into numbers first."""

    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: Tensor | None) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.register_buffer("bias", bias)
        self.__dict__["_is_hf_initialized"] = True  # transformers leaves such modules alone

    @classmethod
    def quantize(cls, weight: Tensor, bias: Tensor | None) -> Self:
        """Store this weight [out_features, in_features] in fewer bits, on its device."""
        raise NotImplementedError

    @classmethod
    def concatenate(cls, layers: Sequence[Any]) -> Self:
        """One layer with the rows of all `layers` (of this class), without quantizing again."""
        raise NotImplementedError

    def dequantize(self) -> Tensor:
        """The weight [out_features, in_features] in the computing type."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.dequantize(), self.bias)


def _concatenate_bias(layers: Sequence[QuantizedLinear]) -> Tensor | None:
    biases = [layer.bias for layer in layers if layer.bias is not None]
    return torch.cat(biases) if biases else None


class Int8Linear(QuantizedLinear):
    """weight: [out, in] int8. scale: [out] in the computing type."""

    weight: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)

    @classmethod
    def quantize(cls, weight: Tensor, bias: Tensor | None) -> Self:
        scale = _nonzero(weight.abs().amax(1).float() / 127).to(weight.dtype)
        quantized = (weight.float() / scale.float()[:, None]).round_().clamp_(-127, 127)
        return cls(quantized.to(torch.int8), scale, bias)

    @classmethod
    def concatenate(cls, layers: Sequence[Any]) -> Self:
        weight = torch.cat([layer.weight for layer in layers])
        scale = torch.cat([layer.scale for layer in layers])
        return cls(weight, scale, _concatenate_bias(layers))

    def dequantize(self) -> Tensor:
        return self.weight.to(self.scale.dtype) * self.scale[:, None]

    def forward(self, x: Tensor) -> Tensor:
        """The scale multiplies the product's columns, so the weight is only converted."""
        output = F.linear(x, self.weight.to(x.dtype)) * self.scale
        return output if self.bias is None else output + self.bias


class Int4Linear(QuantizedLinear):
    """packed: [out, groups, 64] uint8, two weights a byte, the low half first.

    scale, zero: [out, groups, 1] in the computing type; zero is a whole number of 0 … 15. Rows are
    padded to whole groups.
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

    @classmethod
    def quantize(cls, weight: Tensor, bias: Tensor | None) -> Self:
        out_features, in_features = weight.shape
        groups = F.pad(weight.float(), (0, -in_features % INT4_GROUP))
        groups = groups.view(out_features, -1, INT4_GROUP)
        low = groups.amin(-1, keepdim=True).clamp_(max=0)
        high = groups.amax(-1, keepdim=True).clamp_(min=0)
        scale = _nonzero((high - low) / 15).to(weight.dtype)
        zero = (-low / scale.float()).round_().clamp_(0, 15)
        codes = (groups / scale.float() + zero).round_().clamp_(0, 15).to(torch.uint8)
        packed = codes[..., 0::2] | codes[..., 1::2] << 4
        return cls(packed, scale, zero.to(weight.dtype), in_features, bias)

    @classmethod
    def concatenate(cls, layers: Sequence[Any]) -> Self:
        packed, scale, zero = (
            torch.cat([getattr(layer, name) for layer in layers])
            for name in ("packed", "scale", "zero")
        )
        return cls(packed, scale, zero, layers[0].in_features, _concatenate_bias(layers))

    def dequantize(self) -> Tensor:
        codes = torch.stack((self.packed & 15, self.packed >> 4), -1).flatten(-2)
        weight = (codes.to(self.scale.dtype) - self.zero) * self.scale
        return weight.flatten(1)[:, : self.in_features]


def _nonzero(scale: Tensor) -> Tensor:
    """A row of zeros gets the scale 1, so that nothing is divided by zero."""
    return torch.where(scale > 0, scale, 1.0)
