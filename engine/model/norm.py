"""RMS norms: their forms in transformers, read off a module by trying which one it computes.

    plain   x / rms(x) · w           Llama, Qwen, Mistral, GLM …
    gemma   x / rms(x) · (1 + w)     the 1 is added once, at load, in float32

`rms_norm` and `add_rms_norm` are the two functions that a fused kernel would replace.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_EPS_NAMES = ("variance_epsilon", "eps", "epsilon")
_TRIED_ROWS = 3


class NotFast(Exception):
    """Why a layer keeps transformers' own code; told in the log, never an error."""


class RMSNorm(nn.Module):
    """weight: [dim], the 1 of gemma's form included, or None for a norm without one."""

    weight: Tensor | None

    def __init__(self, weight: Tensor | None, eps: float) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """x / rms(x) · weight over the last dimension, in x's type. A weight of a wider type than x
    (gemma's) is multiplied in that type."""
    if weight is None or weight.dtype is x.dtype:
        return F.rms_norm(x, x.shape[-1:], weight, eps)
    return F.rms_norm(x.to(weight.dtype), x.shape[-1:], weight, eps).to(x.dtype)


def add_rms_norm(x: Tensor, residual: Tensor, norm: RMSNorm | None) -> tuple[Tensor, Tensor]:
    """The new residual x + residual, normed (if there is a norm) and as it is."""
    total = residual + x
    return (total if norm is None else norm(total)), total


def read_norm(module: nn.Module) -> RMSNorm:
    """The RMSNorm that computes what `module` does. Raises NotFast for another kind of norm."""
    kind = type(module).__name__
    eps = next((e for name in _EPS_NAMES if (e := getattr(module, name, None)) is not None), None)
    weight: Tensor | None = getattr(module, "weight", None)
    if not isinstance(eps, float) or getattr(module, "bias", None) is not None:
        raise NotFast(f"{kind} is no RMS norm")
    if weight is None or weight.ndim != 1:
        raise NotFast(f"{kind} has no weight of one dimension")
    x = _random_rows(weight)
    expected = module(x).float()
    for candidate in (weight.detach(), weight.detach().float() + 1):
        norm = RMSNorm(candidate, eps)
        if torch.allclose(norm(x).float(), expected, rtol=_tolerance(x), atol=_tolerance(x)):
            return norm
    raise NotFast(f"{kind} is no RMS norm")


def _random_rows(like: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(_TRIED_ROWS, like.shape[0], generator=generator)
    return rows.to(like.device, like.dtype)


def _tolerance(x: Tensor) -> float:
    """Some roundings of x's type: 4e-6 for float32, 0.03 for bfloat16."""
    return max(4 * torch.finfo(x.dtype).eps, 4e-6)
