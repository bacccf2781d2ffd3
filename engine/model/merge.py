"""Compute sibling projections (q/k/v, gate/up) in one matrix product, without touching the model.

    q_proj(x) ─┐                      q_proj(x) ─> merged(x) computed, slice 0 returned
    k_proj(x) ─┼─ three GEMMs   →     k_proj(x) ─> slice 1
    v_proj(x) ─┘                      v_proj(x) ─> slice 2, result forgotten

Siblings are asked with the same tensor object one after the other, so whoever comes first computes
for all. Works on every architecture that names its projections so; the modeling code stays as is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engine.quant.linear import QuantizedLinear

_SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("w1", "w3"))


class Merged(nn.Module):
    """The siblings' weights one above the other, and the result that is being handed out."""

    def __init__(self, linear: nn.Module, sizes: Sequence[int]) -> None:
        super().__init__()
        self.linear = linear
        self.sizes = list(sizes)
        self._input: Tensor | None = None
        self._parts: tuple[Tensor, ...] = ()

    def part(self, index: int, x: Tensor) -> Tensor:
        if self._input is not x:
            self._input = x
            self._parts = self.linear(x).split(self.sizes, -1)
        part = self._parts[index]
        if index == len(self.sizes) - 1:
            self._input, self._parts = None, ()
        return part


class Slice(nn.Module):
    """Stands where one sibling stood."""

    def __init__(self, merged: Merged, index: int, in_features: int) -> None:
        super().__init__()
        self._merged = (merged,)  # in a tuple, so that torch does not count it as a submodule
        self.index = index
        self.in_features = in_features
        self.out_features = merged.sizes[index]

    def forward(self, x: Tensor) -> Tensor:
        return self._merged[0].part(self.index, x)


def merge_siblings(model: nn.Module) -> int:
    """Merge all siblings whose weights have arrived, in place; returns how many groups there were.

    Needs, for a moment, one group's weights twice. Called again after each layer is loaded.
    """
    merged = 0
    for module in list(model.modules()):
        for names in _SIBLINGS:
            children = [getattr(module, name, None) for name in names]
            linear = _concatenate(children)
            if linear is not None:
                _replace(module, names, linear, children)
                merged += 1
    return merged


def _replace(
    module: nn.Module, names: Sequence[str], linear: nn.Module, children: Sequence[nn.Module | None]
) -> None:
    group = Merged(linear, [child.out_features for child in children])  # type: ignore[union-attr,misc]  # Linears, as they were concatenated
    module.add_module("_merged_" + names[0], group)
    for index, name in enumerate(names):
        setattr(module, name, Slice(group, index, children[index].in_features))  # type: ignore[union-attr,arg-type]  # as above


def _concatenate(children: Sequence[nn.Module | None]) -> nn.Module | None:
    """One Linear of the children's rows, or None if they are not alike."""
    plain = [c for c in children if type(c) is nn.Linear]
    quantized = [c for c in children if isinstance(c, QuantizedLinear)]
    if len(plain) == len(children) and _alike(plain):
        return _concatenate_plain(plain)
    if len(quantized) == len(children) and _alike(quantized):
        return type(quantized[0]).concatenate(quantized)
    return None


def _alike(linears: Sequence[nn.Linear | QuantizedLinear]) -> bool:
    kinds = {(type(c), c.in_features, c.bias is None) for c in linears}
    return len(kinds) == 1 and not any(t.is_meta for c in linears for t in c.state_dict().values())


def _concatenate_plain(linears: Sequence[nn.Linear]) -> nn.Linear:
    with torch.device("meta"):
        merged = nn.Linear(linears[0].in_features, sum(c.out_features for c in linears), False)
    merged.__dict__["_is_hf_initialized"] = True  # or transformers would make its weights random
    merged.weight = nn.Parameter(torch.cat([c.weight for c in linears]), requires_grad=False)
    if linears[0].bias is not None:
        merged.bias = nn.Parameter(torch.cat([c.bias for c in linears]), requires_grad=False)
    return merged
