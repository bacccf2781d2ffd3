"""Which Linear layers of a model are quantized, and putting the quantized ones in their place.

Those inside the repeated layers, as they hold nearly all weights. Embeddings, the head, norms,
routers and narrow projections stay in the model's type.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import nn

from engine.footprint import LinearShape
from engine.quant.linear import Int4Linear, Int8Linear, QuantizedLinear

FORMATS: dict[str, type[QuantizedLinear]] = {"int8": Int8Linear, "int4": Int4Linear}

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
        parent, _, child = name.rpartition(".")
        bias = None if module.bias is None else module.bias.data
        quantized = kind.quantize(module.weight.data, bias)
        setattr(model.get_submodule(parent), child, quantized)
    return len(ready)
