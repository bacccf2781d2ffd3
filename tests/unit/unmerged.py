"""The weights of a model whose siblings are merged, under the names they were stored by."""

from __future__ import annotations

from torch import Tensor, nn

from engine.model.merge import Slice


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers; each sibling's rows under the sibling's own name."""
    found = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, module in model.named_modules():
        if isinstance(module, Slice):
            (merged,) = module._merged
            for kind, tensor in merged.linear.state_dict().items():
                found[f"{name}.{kind}"] = tensor.split(merged.sizes)[module.index]
    return found
