"""Which Linear layers of a model are quantized, and putting the quantized ones in their place.

Those inside the repeated layers, as they hold nearly all weights; for int8_dynamic the head as
well, which reads a fifth of a small model's bytes for every token. Embeddings, norms, routers,
narrow projections and the experts of a mixture (which are not Linear modules) stay in the model's
type.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from engine.footprint import LinearShape
from engine.quant.dynamic import Int8DynamicLinear
from engine.quant.int4 import Int4Linear
from engine.quant.linear import Int8Linear, QuantizedLinear

FORMATS: dict[str, type[QuantizedLinear]] = {
    "int8": Int8Linear,
    "int8_dynamic": Int8DynamicLinear,
    "int4": Int4Linear,
}

_MIN_FEATURES = 16
_IN_A_LAYER = re.compile(r"\.\d+\.")


def quantizable(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Name and module of each Linear that quantization replaces."""
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or type(module) is not nn.Linear:
            continue  # a subclass may compute something else
        is_wide = min(module.in_features, module.out_features) >= _MIN_FEATURES
        if is_wide and _IN_A_LAYER.search(name):
            yield name, module


def quantizable_shapes(model: nn.Module) -> list[LinearShape]:
    """What `footprint.weight_bytes` needs to know; works on the meta device."""
    return [LinearShape(m.out_features, m.in_features) for _, m in quantizable(model)]


def quantize_loaded(model: nn.Module, kind: type[QuantizedLinear]) -> int:
    """Replace those quantizable layers whose weights have arrived; returns how many.

    Called again after each layer is loaded, so that only one layer is ever there in full.
    """
    ready = [
        (name, module)
        for name, module in quantizable(model)
        if not any(parameter.is_meta for parameter in module.parameters())
    ]
    for name, module in ready:
        _quantize(model, name, module, kind)
    return len(ready)


def quantize_head(model: nn.Module, kind: type[QuantizedLinear]) -> bool:
    """Quantize the projection to the vocabulary, if this kind does that; whether it was done.

    Called when the model is whole. An embedding that was tied to the head stays beside it.
    """
    found = head(model) if kind.has_head else None
    if found:
        _quantize(model, *found, kind)
    return found is not None


def head(model: Any) -> tuple[str, nn.Linear] | None:
    """Name and module of a plain projection to the vocabulary."""
    found = model.get_output_embeddings()
    if type(found) is not nn.Linear:
        return None
    return next((name, found) for name, module in model.named_modules() if module is found)


def pack_weights(model: nn.Module) -> Counter[str]:
    """Hand the quantized weights to the fastest kernels that are right here, when no layer is
    concatenated any more; returns the kernels' names and how many weights each has."""
    layers = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    return Counter(layer.pack() for layer in layers)


def saved_bytes(model: Any, dtype: torch.dtype) -> int:
    """How much less the model takes than it would in this type; a head that was tied to the
    embedding took nothing."""
    is_tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    tied = model.get_output_embeddings() if is_tied else None
    saved = 0
    for layer in model.modules():
        if isinstance(layer, QuantizedLinear):
            own = (buffer for name, buffer in layer.named_buffers() if name != "bias")
            taken = sum(b.numel() * b.element_size() for b in own) + layer.packed_bytes
            before = 0 if layer is tied else layer.out_features * layer.in_features
            saved += before * dtype.itemsize - taken
    return saved


def kept_expert_params(model: nn.Module) -> int:
    """Weights of experts that lie in one tensor [experts, …, …] and so are not quantized."""
    layered = (p for n, p in model.named_parameters() if _IN_A_LAYER.search(n))
    return sum(parameter.numel() for parameter in layered if parameter.dim() == 3)


def _quantize(model: nn.Module, name: str, linear: nn.Linear, kind: type[QuantizedLinear]) -> None:
    parent, _, child = name.rpartition(".")
    bias = None if linear.bias is None else linear.bias.data
    setattr(model.get_submodule(parent), child, kind.quantize(linear.weight.data, bias))
