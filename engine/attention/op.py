"""The one attention operation that every transformers model calls while it runs in this engine.

transformers' layers ask a registry for their attention function; `adapt` points them to ours. It
hands query, key and value of the step's tokens to whatever the step is: a `PagedStep` in service,
a `Probe` at load. The step is found through a context variable, as not every architecture passes
extra keyword arguments down to its attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from engine.attention.metadata import Variant

NAME = "autoglm_paged"
"""Our entry in transformers' attention and mask registries."""


class AttentionStep(Protocol):
    """What one forward pass does with attention."""

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, variant: Variant
    ) -> Tensor:
        """Attention of one layer. query: [tokens, heads, k_dim]; key, value: [tokens, kv_heads,
        k_dim or v_dim], views that need not be contiguous. Returns [tokens, heads, v_dim]."""
        ...

    def see_mask(self, mask_function: Callable[..., Any], window: int | None) -> None:
        """Told of every mask that the model wants; we apply masks ourselves."""
        ...


_step: ContextVar[AttentionStep] = ContextVar("attention_step")


@contextmanager
def during(step: AttentionStep) -> Iterator[None]:
    """Let the models that run inside attend through `step`."""
    token = _step.set(step)
    try:
        yield
    finally:
        _step.reset(token)


def attend(layer: int, query: Tensor, key: Tensor, value: Tensor, variant: Variant) -> Tensor:
    """Attention of one layer within the current step; see `AttentionStep.attend`."""
    return _step.get().attend(layer, query, key, value, variant)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' calling convention: query [1, heads, tokens, dim] in, [1, tokens, heads, dim]
    out. A mask never arrives, because our mask function makes none."""
    variant = Variant(
        scale=query.shape[-1] ** -0.5 if scaling is None else float(scaling),
        sliding_window=sliding_window or None,
        softcap=softcap or None,
        sinks=s_aux,
    )
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [tokens, heads, dim]
    layer: int = module.layer_idx  # type: ignore[assignment]  # an int in every attention module
    return attend(layer, q, k, v, variant)[None], None


def _make_no_mask(
    *_: Any, mask_function: Callable[..., Any], local_size: int | None = None, **__: Any
) -> None:
    _step.get().see_mask(mask_function, local_size)


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, _make_no_mask)
