"""Put a FastBlock in the place of each decoder layer that it reproduces; leave the others alone.

At every load, each layer and its block are given the same random rows (plain ones, large ones and
some with one huge outlier, at positions up to the model's limit). The block is taken only if it
hands attention the same queries, keys and values and gives the same result. How a layer rotates its
queries is found the same way, by trying. So a model that is unlike all that is known here, or that
a new version of transformers computes differently, runs transformers' code, a little slower.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from engine.attention import op, reference
from engine.attention.metadata import Variant
from engine.model.adapt import LayerShape, usable_length
from engine.model.block import FastBlock
from engine.model.norm import NotFast
from engine.model.rope import Form, Rotary
from engine.quant.linear import QuantizedLinear

logger = logging.getLogger("engine.load")

_PLAIN_ROWS, _LARGE_ROWS, _OUTLIER_ROWS = 4, 4, 4
_LARGE, _OUTLIER = 30.0, 100.0
_FAR_POSITION = 4096
"""The farthest position tried for a model that names no limit."""

_TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Allowed error relative to what a layer adds to its input. A wrong form errs by about 1."""
_QUANTIZED_TOLERANCE = 2e-2
"""Where activations are rounded too, one that falls on the other side costs about 1e-3."""


_Rotaries = dict[tuple[Form, int, int], Rotary]
"""By form, head dimension and the tensor of cosines: the layers that rotate alike share one."""


@dataclass
class _Call:
    """How the model called one layer."""

    hidden: Tensor
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def cosines(self) -> Tensor | None:
        """What the layer was given to rotate by; layers that share it rotate alike."""
        given = self.kwargs.get("position_embeddings")
        return given[0] if isinstance(given, tuple) and len(given) == 2 else None


@dataclass
class _Recorder:
    """An attention step over the rows at hand, that remembers what it was given."""

    seen: list[Tensor] = field(default_factory=list)
    variant: Variant | None = None

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, variant: Variant
    ) -> Tensor:
        self.seen, self.variant = [query, key, value], variant
        return reference.attend_sequence(query, key, value, variant)

    def see_mask(self, mask_function: Callable[..., Any], window: int | None) -> None:
        """Masks were checked by the probe."""


@torch.inference_mode()
def use_fast_blocks(model: PreTrainedModel, shapes: Sequence[LayerShape]) -> int:
    """Replace layers by equal FastBlocks, in place; returns how many are fast.

    shapes: what `adapt` found, in the order of the layers. Siblings should be merged before.
    """
    layers = getattr(model.get_decoder(), "layers", None)
    if not isinstance(layers, nn.ModuleList) or len(layers) != len(shapes):
        logger.info("No fast layers: the model does not keep its layers in one list")
        return 0
    calls = _calls(model, layers)
    rotaries: _Rotaries = {}
    reasons: Counter[str] = Counter()
    for index, (layer, shape) in enumerate(zip(layers, shapes, strict=True)):
        try:
            layers[index] = _block_for(layer, index, shape, calls[index], rotaries)
        except NotFast as reason:
            reasons[str(reason)] += 1
    num_fast = len(layers) - reasons.total()
    logger.info("%d of %d layers are fast", num_fast, len(layers))
    for reason, count in reasons.items():
        logger.info("%d layers keep transformers' code: %s", count, reason)
    return num_fast


def _calls(model: PreTrainedModel, layers: nn.ModuleList) -> list[_Call]:
    """Run the model once on zeros at telling positions and keep how it calls its layers."""
    calls: list[_Call] = []

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs.pop("hidden_states")
        calls.append(_Call(hidden, args[1:], kwargs))

    hooks = [layer.register_forward_pre_hook(keep, with_kwargs=True) for layer in layers]
    positions = _positions(usable_length(model.config) or _FAR_POSITION).to(model.device)
    try:
        with op.during(_Recorder()):
            model(
                input_ids=torch.zeros_like(positions)[None],
                position_ids=positions[None],
                use_cache=False,
            )
    finally:
        for hook in hooks:
            hook.remove()
    assert len(calls) == len(layers), f"{len(calls)} calls of {len(layers)} layers"
    return calls


def _positions(limit: int) -> Tensor:
    """The first few, then on to the last in growing steps."""
    count = _PLAIN_ROWS + _LARGE_ROWS + _OUTLIER_ROWS
    near = torch.arange(count)
    far = (torch.linspace(0, 1, count) ** 3 * max(limit - count, 0)).long()
    return near + far


def _rows(like: Tensor) -> Tensor:
    """Random input for a layer: [1, rows, hidden] like the tensor given; the same each time."""
    generator = torch.Generator().manual_seed(0)
    width = like.shape[-1]
    rows = torch.randn(_PLAIN_ROWS + _LARGE_ROWS + _OUTLIER_ROWS, width, generator=generator)
    rows[_PLAIN_ROWS : _PLAIN_ROWS + _LARGE_ROWS] *= _LARGE
    places = torch.randint(width, (_OUTLIER_ROWS, 1), generator=generator)
    rows[-_OUTLIER_ROWS:].scatter_(1, places, _OUTLIER)
    return rows[None].to(like.device, like.dtype)


def _block_for(
    layer: nn.Module, index: int, shape: LayerShape, call: _Call, rotaries: _Rotaries
) -> FastBlock:
    """The block that computes what `layer` does. Raises NotFast."""
    rows = _rows(call.hidden)
    with op.during(recorder := _Recorder()):
        expected = _tensor(layer(rows, *call.args, **call.kwargs))
    assert recorder.variant is not None, f"layer {index} did not attend"
    wanted = _Outcome(expected, recorder.seen)
    block = FastBlock(layer, index, shape, recorder.variant)
    tolerance = _tolerance(block, rows.dtype)
    for rotates_first in (False, True) if block.attention.has_norms else (False,):
        block.attention.rotates_first = rotates_first
        for form in _forms(call, shape.k_dim):
            key = (form, shape.k_dim, id(call.cosines))
            block.attention.rotary = rotaries.setdefault(key, Rotary(form, shape.k_dim))
            if wanted.is_met(_try(block, rows, call), rows, tolerance):
                return block
    raise NotFast("the fast block computes something else")


def _forms(call: _Call, head_dim: int) -> list[Form]:
    """The ways to rotate that the tables' width allows."""
    if call.cosines is None:
        return [Form.NONE]
    if call.cosines.ndim != 3:
        raise NotFast("positions have several axes")
    return [form for form in Form if call.cosines.shape[-1] * _widening(form) <= head_dim]


def _widening(form: Form) -> int:
    return 2 if form is Form.HALF_SHORT else 1


def _try(block: FastBlock, rows: Tensor, call: _Call) -> _Outcome:
    with op.during(recorder := _Recorder()):
        output = block(rows, *call.args, **call.kwargs)
    return _Outcome(output, recorder.seen)


def _tensor(output: Any) -> Tensor:
    """The hidden states among what a layer returns; a block returns nothing else."""
    if not isinstance(output, Tensor):
        raise NotFast("the layer returns more than hidden states")
    return output


def _tolerance(block: FastBlock, dtype: torch.dtype) -> float:
    is_quantized = any(isinstance(module, QuantizedLinear) for module in block.modules())
    return max(_TOLERANCES[dtype], _QUANTIZED_TOLERANCE if is_quantized else 0.0)


@dataclass
class _Outcome:
    """What a layer gave back, and the query, key and value that it handed to attention."""

    output: Tensor
    attended: list[Tensor]

    def is_met(self, other: _Outcome, rows: Tensor, tolerance: float) -> bool:
        """Whether `other` came to the same, row by row, of input `rows`."""
        added = self.output.float() - rows.float()
        rounding = 2 * torch.finfo(rows.dtype).eps * _norms(self.output)
        pairs = zip(self.attended, other.attended, strict=True)
        return all(_are_close(mine, theirs, tolerance) for mine, theirs in pairs) and bool(
            (_norms(other.output - self.output) <= tolerance * _norms(added) + rounding).all()
        )


def _are_close(expected: Tensor, actual: Tensor, tolerance: float) -> bool:
    """expected, actual: [tokens, heads, dim]."""
    if expected.shape != actual.shape:
        return False
    errors = _norms(actual - expected)
    return bool((errors <= tolerance * _norms(expected)).all())


def _norms(x: Tensor) -> Tensor:
    """The length of each row's vector; NaN and infinity stay what they are."""
    return x.float().flatten(0, -2).norm(dim=-1)
