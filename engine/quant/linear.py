"""What every quantized Linear is; and int8, stored in 8 bits and computed in the model's type.

Weight-only: activations are never rounded. A scale is first rounded to the computing type and the
weights are then rounded with that very scale, so the scale's own rounding adds no error:

    w ≈ q · scale,    q in −127 … 127, one scale a row,    |error| ≤ scale / 2
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class QuantizedLinear(nn.Module):
    """Base: shape, bias, and a forward that turns the weights back into numbers first."""

    has_head = False
    """Whether the projection to the vocabulary is quantized as well."""
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

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight [out_features, in_features]; not once it is packed."""
        raise NotImplementedError

    def pack(self) -> str:
        """Lay the weights out for the fastest kernel that proves itself on this machine, once
        nothing is concatenated any more; returns its name."""
        return "torch"

    @property
    def packed_bytes(self) -> int:
        """Bytes that a kernel keeps outside of this module's buffers."""
        return 0

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.dequantize(x.dtype), self.bias)


def concatenate_bias(layers: Sequence[QuantizedLinear]) -> Tensor | None:
    biases = [layer.bias for layer in layers if layer.bias is not None]
    return torch.cat(biases) if biases else None


class Int8Rows(QuantizedLinear):
    """weight: [out, in] int8 with one scale a row. scale: [out]."""

    weight: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)

    @classmethod
    def concatenate(cls, layers: Sequence[Any]) -> Self:
        weight = torch.cat([layer.weight for layer in layers])
        scale = torch.cat([layer.scale for layer in layers])
        return cls(weight, scale, concatenate_bias(layers))


class Int8Linear(Int8Rows):
    """Weight-only. scale: in the computing type."""

    @classmethod
    def quantize(cls, weight: Tensor, bias: Tensor | None) -> Self:
        scale = nonzero(weight.abs().amax(1).float() / 127).to(weight.dtype)
        quantized = (weight.float() / scale.float()[:, None]).round_().clamp_(-127, 127)
        return cls(quantized.to(torch.int8), scale, bias)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.weight.to(dtype) * self.scale[:, None].to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """The scale multiplies the product's columns, so the weight is only converted."""
        output = F.linear(x, self.weight.to(x.dtype)) * self.scale
        return output if self.bias is None else output + self.bias


def nonzero(scale: Tensor) -> Tensor:
    """A row of zeros gets the scale 1, so that nothing is divided by zero."""
    return torch.where(scale > 0, scale, 1.0)
