"""float32 products on a CPU from weights that oneDNN has laid out once, at load.

A plain Linear lets the library bring each weight into its kernel's layout again for every step of
more than one token. Laid out once, a step of 16 tokens through all products of SmolLM2-135M takes
90 ms instead of 140, one of 64 tokens 304 instead of 525, one of a single token 56 instead of 64
(one thread of an AMD EPYC with AVX-512, torch 2.13).
"""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from engine.model.block import FastBlock

_TOKENS = 16
"""The number of tokens that the layout is chosen for; any other number works."""
_MIN_WEIGHTS = 2**14
"""Smaller weights stay in the processor's cache however they lie."""
_RETRACTED = (AttributeError, NotImplementedError, RuntimeError)
"""What torch raises for an operator that this build or processor does not have."""


class PackedLinear(nn.Module):
    """A Linear whose weight only oneDNN can read. packed_bytes: what the weight takes."""

    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("bias", linear.bias)
        weight = linear.weight.detach()
        self.packed_bytes = weight.numel() * weight.element_size()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, _TOKENS)

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")


@torch.inference_mode()
def pack_linears(model: PreTrainedModel) -> int:
    """Pack the plain float32 Linears of the fast layers, and the head's, in place; returns how
    many. Others stay, as transformers' code may read their weights. A head that is tied to the
    embedding takes its bytes a second time.

    Does nothing where oneDNN is missing or computes something else than torch.
    """
    places = [
        (module, name, child)
        for block in (m for m in model.modules() if isinstance(m, FastBlock))
        for module in block.modules()
        for name, child in module.named_children()
        if _is_packable(child)
    ]
    head = model.get_output_embeddings()
    places += [
        (module, name, child)
        for module in model.modules()
        for name, child in module.named_children()
        if child is head and _is_packable(child)
    ]
    if not places or not _works(places[0][2]):
        return 0
    for module, name, child in places:
        setattr(module, name, PackedLinear(child))
    return len(places)


def _is_packable(module: nn.Module) -> TypeGuard[nn.Linear]:
    return (
        type(module) is nn.Linear
        and module.weight.device.type == "cpu"
        and module.weight.dtype is torch.float32
        and module.weight.numel() >= _MIN_WEIGHTS
    )


def _works(linear: nn.Linear) -> bool:
    """Whether a packed weight gives torch's own results, for one token, some and many."""
    if not torch.backends.mkldnn.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    try:
        packed = PackedLinear(linear)
        for num_tokens in (1, _TOKENS, 100):
            x = torch.randn(num_tokens, linear.in_features, generator=generator)
            torch.testing.assert_close(packed(x), linear(x), atol=1e-3, rtol=1e-3)
    except (*_RETRACTED, AssertionError):
        return False
    return True
