"""From a scheduled batch to the tensors of one model step.

All index arithmetic is done by numpy on whole chunks and goes to the device in two copies, one of
64-bit rows and one of 32-bit tables, from pinned memory where the device is a GPU.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.attention.metadata import AttentionMetadata, Sequence
from engine.core.scheduler import Batch

IntArray = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Inputs:
    """token_ids, position_ids: [1, tokens] int64.

    logit_rows: [num_sampled + scored] int64, first the rows whose logits give a new token, in the
    order of the batch, then those whose logits give the log probability of a prompt's next token.
    """

    token_ids: Tensor
    position_ids: Tensor
    logit_rows: Tensor
    num_sampled: int
    metadata: AttentionMetadata


def build_inputs(batch: Batch, block_size: int, device: torch.device) -> Inputs:
    """Lay the batch's chunks one after the other."""
    num_tokens = sum(chunk.num_tokens for chunk in batch)
    rows = np.empty((3, num_tokens), np.int64)  # token ids, positions, slots
    tables = _pad([chunk.request.block_ids for chunk in batch])
    sequences: list[Sequence] = []
    first = 0
    for row, chunk in enumerate(batch):
        span = slice(first, first + chunk.num_tokens)
        positions = np.arange(chunk.start, chunk.end)
        rows[0, span] = chunk.request.token_ids[chunk.start : chunk.end]
        rows[1, span] = positions
        rows[2, span] = tables[row, positions // block_size] * block_size + positions % block_size
        adjoining = _first_if_adjoining(tables[row, : -(-chunk.end // block_size)])
        sequences.append(Sequence(span.start, span.stop, chunk.end, adjoining))
        first = span.stop
    starts = np.array([0, *(seq.end for seq in sequences)], np.int32)
    lengths = np.array([seq.length for seq in sequences], np.int32)
    sampled = [s.end - 1 for s, c in zip(sequences, batch, strict=True) if c.is_sampled]
    scored = [
        row
        for s, c in zip(sequences, batch, strict=True)
        for row in range(s.start, s.start + c.num_prompt_logprobs)
    ]
    logit_rows = np.array([*sampled, *scored], np.int64)
    wide = _to_device([rows.ravel(), logit_rows], np.int64, device)
    narrow = _to_device([starts, lengths, tables.ravel()], np.int32, device)
    token_ids, position_ids, slots = wide[: 3 * num_tokens].view(3, num_tokens)
    cut = len(starts)
    metadata = AttentionMetadata(
        slots=slots,
        cu_query_lengths=narrow[:cut],
        kv_lengths=narrow[cut : cut + len(batch)],
        block_tables=narrow[cut + len(batch) :].view(len(batch), -1),
        sequences=tuple(sequences),
        max_query_length=max(seq.num_queries for seq in sequences),
        max_kv_length=int(lengths.max()),
    )
    return Inputs(
        token_ids[None], position_ids[None], wide[3 * num_tokens :], len(sampled), metadata
    )


def _pad(block_tables: list[array[int]]) -> IntArray:
    """[seqs, most blocks], filled up with the spare block 0."""
    padded = np.zeros((len(block_tables), max(map(len, block_tables))), np.int64)
    for row, table in enumerate(block_tables):
        padded[row, : len(table)] = table
    return padded


def _first_if_adjoining(blocks: IntArray) -> int | None:
    adjoin = int(blocks[-1] - blocks[0]) == len(blocks) - 1 and bool((np.diff(blocks) == 1).all())
    return int(blocks[0]) if adjoin else None


def _to_device(parts: list[IntArray], dtype: type[np.generic], device: torch.device) -> Tensor:
    host = torch.from_numpy(np.concatenate(parts, dtype=dtype, casting="same_kind"))
    if device.type == "cpu":
        return host
    return host.pin_memory().to(device, non_blocking=True)
