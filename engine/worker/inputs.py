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


@dataclass(frozen=True, slots=True)
class HostInputs:
    """A step as arrays on the host, from which every rank makes the same tensors.

    rows: [3, tokens] int64: token ids, positions, slots. logit_rows: as `Inputs`. ends: [seqs]
    int32, where each sequence's rows end. lengths: [seqs] int32, tokens in the cache after the
    step. tables: [seqs, most blocks] int32.
    """

    rows: IntArray
    logit_rows: IntArray
    num_sampled: int
    ends: IntArray
    lengths: IntArray
    tables: IntArray


def build_inputs(batch: Batch, block_size: int, device: torch.device) -> Inputs:
    return upload(lay_out(batch, block_size), block_size, device)


def lay_out(batch: Batch, block_size: int) -> HostInputs:
    """Lay the batch's chunks one after the other."""
    num_tokens = sum(chunk.num_tokens for chunk in batch)
    rows = np.empty((3, num_tokens), np.int64)
    tables = _pad([chunk.request.block_ids for chunk in batch])
    first = 0
    sampled: list[int] = []
    scored: list[int] = []
    for row, chunk in enumerate(batch):
        span = slice(first, first + chunk.num_tokens)
        positions = np.arange(chunk.start, chunk.end)
        rows[0, span] = chunk.request.token_ids[chunk.start : chunk.end]
        rows[1, span] = positions
        rows[2, span] = tables[row, positions // block_size] * block_size + positions % block_size
        scored += range(first, first + chunk.num_prompt_logprobs)
        first = span.stop
        if chunk.is_sampled:
            sampled.append(first - 1)
    return HostInputs(
        rows=rows,
        logit_rows=np.array([*sampled, *scored], np.int64),
        num_sampled=len(sampled),
        ends=np.cumsum([chunk.num_tokens for chunk in batch], dtype=np.int32),
        lengths=np.array([chunk.end for chunk in batch], np.int32),
        tables=tables.astype(np.int32),
    )


def upload(host: HostInputs, block_size: int, device: torch.device) -> Inputs:
    """The tensors of a step, and what every layer's attention is told."""
    sequences: list[Sequence] = []
    start = 0
    for table, end, length in zip(
        host.tables, host.ends.tolist(), host.lengths.tolist(), strict=True
    ):
        adjoining = _first_if_adjoining(table[: -(-length // block_size)])
        sequences.append(Sequence(start, end, length, adjoining))
        start = end
    wide = _to_device([host.rows.ravel(), host.logit_rows], np.int64, device)
    starts = np.zeros(1, np.int32)
    narrow = _to_device([starts, host.ends, host.lengths, host.tables.ravel()], np.int32, device)
    num_seqs, num_tokens = len(sequences), host.rows.shape[1]
    token_ids, position_ids, slots = wide[: 3 * num_tokens].view(3, num_tokens)
    metadata = AttentionMetadata(
        slots=slots,
        cu_query_lengths=narrow[: num_seqs + 1],
        kv_lengths=narrow[num_seqs + 1 : 2 * num_seqs + 1],
        block_tables=narrow[2 * num_seqs + 1 :].view(num_seqs, -1),
        sequences=tuple(sequences),
        max_query_length=max(seq.num_queries for seq in sequences),
        max_kv_length=int(host.lengths.max()),
    )
    return Inputs(
        token_ids[None], position_ids[None], wide[3 * num_tokens :], host.num_sampled, metadata
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
