"""Paged attention in plain torch: the answer that faster kernels are compared with, and the CPU's.

Works on any device and for every variant. A sequence whose blocks lie one after the other is read
in place; otherwise its blocks (not its tokens) are gathered. Query heads that share a KV head are
folded beside each other, so keys and values are never repeated in memory.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.attention.metadata import AttentionMetadata, Sequence, Variant

NAME = "reference"


def write_kv(key: Tensor, value: Tensor, keys: Tensor, values: Tensor, slots: Tensor) -> None:
    """Store one step's keys and values in their cache slots, in place.

    key, value: [tokens, kv_heads, dim]; keys, values: [blocks, block_size, kv_heads, dim].
    slots: [tokens] int64, block_id * block_size + offset. The scheduler guarantees that no two
    tokens share a slot.
    Source: PagedAttention (Kwon et al., SOSP 2023), section 4.
    """
    keys.flatten(0, 1).index_copy_(0, slots, key.to(keys.dtype))
    values.flatten(0, 1).index_copy_(0, slots, value.to(values.dtype))


def attend(
    query: Tensor, keys: Tensor, values: Tensor, metadata: AttentionMetadata, variant: Variant
) -> Tensor:
    """Causal attention of each sequence's newest tokens to all of its tokens in the cache.

    query: [tokens, heads, k_dim]; keys, values: [blocks, block_size, kv_heads, dim], with this
    step's tokens already written. Returns [tokens, heads, v_dim].
    """
    query, sequences = query.to(keys.dtype), metadata.sequences
    if query.is_cuda and len(sequences) > 1 and metadata.max_query_length == 1:
        return _decode_together(query, keys, values, metadata, variant)
    parts = [
        attend_sequence(
            query[seq.start : seq.end],
            _read(keys, metadata, row, seq),
            _read(values, metadata, row, seq),
            variant,
        )
        for row, seq in enumerate(sequences)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _read(cache: Tensor, metadata: AttentionMetadata, row: int, seq: Sequence) -> Tensor:
    """One sequence's keys or values: [length, kv_heads, dim]; a view where its blocks adjoin."""
    num_blocks = -(-seq.length // cache.shape[1])
    if seq.first_block is not None:
        blocks = cache[seq.first_block : seq.first_block + num_blocks]
    else:
        blocks = cache.index_select(0, metadata.block_tables[row, :num_blocks])
    return blocks.flatten(0, 1)[: seq.length]


def attend_sequence(query: Tensor, key: Tensor, value: Tensor, variant: Variant) -> Tensor:
    """Causal attention of one sequence whose keys and values are at hand.

    query: [queries, heads, dim], the newest of key, value: [length, kv_heads, dim]. Returns
    [queries, heads, v_dim].
    """
    num_queries, length, window = query.shape[0], key.shape[0], variant.sliding_window
    if window:
        first = max(0, length - num_queries - window + 1)
        key, value, length = key[first:], value[first:], length - first
    is_plain = variant.softcap is None and variant.sinks is None
    is_whole = num_queries == length and (window is None or window >= length)
    mask = None
    if num_queries > 1 and not (is_plain and is_whole):
        mask = _causal_mask(num_queries, length, window, query.device)
    grouped = query.unflatten(1, (key.shape[1], -1)).permute(
        1, 2, 0, 3
    )  # [kv, group, queries, dim]
    key, value = (
        key.transpose(0, 1)[:, None],
        value.transpose(0, 1)[:, None],
    )  # [kv, 1, length, dim]
    if is_plain:
        output = _softmax_attention(grouped, key, value, mask, variant.scale)
    else:
        output = _explicit_attention(grouped, key, value, mask, variant)
    return output.permute(2, 0, 1, 3).flatten(1, 2)


def _causal_mask(num_queries: int, length: int, window: int | None, device: torch.device) -> Tensor:
    """[queries, length] bool: what the newest `num_queries` of `length` tokens may see."""
    visible = torch.ones(num_queries, length, dtype=torch.bool, device=device)
    visible = visible.tril(length - num_queries)
    return visible.triu(length - num_queries - window + 1) if window else visible


def _softmax_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
) -> Tensor:
    """torch's own kernel. One query a sequence: the group's heads become the queries, as all see
    the same keys; several: the group's heads are SDPA's heads over keys with stride 0. Without a
    mask the queries are the whole sequence, and torch's causal path skips half of the work."""
    group, num_queries = query.shape[1:3]
    if num_queries == 1:
        folded = query.transpose(1, 2)  # [kv, 1, group, dim]
        return F.scaled_dot_product_attention(folded, key, value, scale=scale).transpose(1, 2)
    key, value = key.expand(-1, group, -1, -1), value.expand(-1, group, -1, -1)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale
    )


def _explicit_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, variant: Variant
) -> Tensor:
    """Soft-capped scores and sinks, which torch's kernel does not know. Computes in float32."""
    kv_heads, group, num_queries, _ = query.shape
    folded = query.flatten(1, 2).float()  # [kv, group * queries, dim]
    scores = folded @ key[:, 0].float().transpose(1, 2) * variant.scale
    if variant.softcap is not None:
        scores = torch.tanh(scores / variant.softcap) * variant.softcap
    scores = scores.unflatten(1, (group, num_queries))
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    if variant.sinks is not None:
        sinks = variant.sinks.float().view(kv_heads, group, 1, 1).expand(-1, -1, num_queries, -1)
        weights = torch.cat((scores, sinks), -1).softmax(-1)[..., :-1]
    else:
        weights = scores.softmax(-1)
    output = weights.flatten(1, 2) @ value[:, 0].float()
    return output.unflatten(1, (group, num_queries)).to(query.dtype)


def _decode_together(
    query: Tensor, keys: Tensor, values: Tensor, metadata: AttentionMetadata, variant: Variant
) -> Tensor:
    """One query a sequence, all sequences in one call over tables padded to the longest.

    On a GPU a loop would launch some thousand small kernels a step; on a CPU the padded copy costs
    more than the loop.
    """
    num_seqs, kv_heads = query.shape[0], keys.shape[2]
    key = keys[metadata.block_tables].flatten(1, 2).transpose(1, 2)  # [seqs, kv, longest, dim]
    value = values[metadata.block_tables].flatten(1, 2).transpose(1, 2)
    places = torch.arange(key.shape[2], device=query.device)
    lengths = metadata.kv_lengths[:, None]
    visible = places < lengths
    if variant.sliding_window:
        visible = visible & (places >= lengths - variant.sliding_window)
    grouped = query.unflatten(1, (kv_heads, -1)).flatten(0, 1)[:, :, None]
    mask = visible[:, None].expand(-1, kv_heads, -1).flatten(0, 1)[:, None, None]
    key, value = key.flatten(0, 1)[:, None], value.flatten(0, 1)[:, None]
    if variant.softcap is None and variant.sinks is None:
        output = F.scaled_dot_product_attention(
            grouped.transpose(1, 2), key, value, attn_mask=mask, scale=variant.scale
        ).transpose(1, 2)
    else:
        sinks = None if variant.sinks is None else variant.sinks.repeat(num_seqs)
        variant = Variant(variant.scale, None, variant.softcap, sinks)
        output = _explicit_attention(grouped, key, value, mask, variant)
    return output.reshape(num_seqs, -1, value.shape[-1])
