"""The memory that holds keys and values, and how much of it to take.

One tensor of keys and one of values a layer, [blocks, block_size, kv_heads, dim]. Which block
belongs to whom is core/blocks.py's business. Block 0 is spare: padding may write there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine import footprint
from engine.attention import reference
from engine.attention.metadata import AttentionMetadata, Variant
from engine.config import EngineConfig
from engine.errors import ModelTooLarge
from engine.model.adapt import LayerShape


class KVCache:
    """Zeroed at the start, so that a kernel which reads padding meets no NaN."""

    def __init__(
        self,
        layers: Sequence[LayerShape],
        *,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        shape = (num_blocks, block_size)
        self.keys = [_zeros((*shape, s.num_kv_heads, s.k_dim), dtype, device) for s in layers]
        self.values = [_zeros((*shape, s.num_kv_heads, s.v_dim), dtype, device) for s in layers]

    @property
    def num_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values))

    @property
    def num_tokens(self) -> int:
        """Tokens that requests can use, the spare block left out."""
        return (self.num_blocks - 1) * self.block_size


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """On a CPU, numpy's zeros: their pages cost nothing until a request writes there, while
    torch.zeros writes all of them at once (2 GiB: 0.9 s)."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return (
        torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, np.uint8))
        .view(dtype)
        .view(shape)
    )


@dataclass(frozen=True, slots=True)
class PagedStep:
    """One engine step's attention: write the new keys and values, then attend to all of them."""

    cache: KVCache
    metadata: AttentionMetadata

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, variant: Variant
    ) -> Tensor:
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        reference.write_kv(key, value, keys, values, self.metadata.slots)
        return reference.attend(query, keys, values, self.metadata, variant)

    def see_mask(self, mask_function: Callable[..., Any], window: int | None) -> None:
        """Masks were checked by the probe at load."""


def bytes_per_token(layers: Sequence[LayerShape], dtype: str) -> int:
    return sum(
        footprint.kv_bytes_per_token(
            num_layers=1,
            num_kv_heads=shape.num_kv_heads,
            head_dim=shape.k_dim,
            v_head_dim=shape.v_dim,
            dtype=dtype,
        )
        for shape in layers
    )


def choose_num_blocks(
    config: EngineConfig,
    *,
    max_seq_length: int,
    token_bytes: int,
    free_bytes: int,
    is_cuda: bool,
) -> int:
    """How many blocks to allocate, the spare one included. Pure.

    max_seq_length: what the model allows of the configured length. free_bytes: what the engine may
    still fill, after weights and a step's activations.
    As many as the limits can use, within `kv_cache_gib` or the memory. Raises ModelTooLarge with
    the numbers when not even one block of tokens fits.
    """
    wanted = footprint.num_kv_blocks(config.max_num_seqs, max_seq_length, config.block_size)
    block_bytes = config.block_size * token_bytes
    if config.kv_cache_gib is not None:
        budget = int(config.kv_cache_gib * footprint.GIB)
    else:
        budget = free_bytes if is_cuda else footprint.default_kv_limit_bytes(free_bytes)
    num_blocks = min(wanted, budget // block_bytes)
    if num_blocks < 2 or budget > max(free_bytes, 0):
        need = max(2 * block_bytes, budget if config.kv_cache_gib is not None else 0)
        raise ModelTooLarge(
            f"The KV cache needs {need / footprint.GIB:.2f} GiB; "
            f"{max(free_bytes, 0) / footprint.GIB:.2f} GiB are left after weights and activations.",
            fix="Choose int8 or int4, a smaller --kv-cache-gib, or a device with more memory.",
        )
    return num_blocks
