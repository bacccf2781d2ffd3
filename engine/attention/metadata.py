"""What one engine step tells every attention layer: where its tokens are and what they may see.

Built once a step (worker/inputs.py) and read by each layer's kernel. A kernel for packed sequences
(FlashAttention's varlen interface) needs only the tensors; the host-side copies serve kernels that
loop over sequences, so that no layer has to wait for the device.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sequence:
    """One sequence of a step, in host numbers.

    start, end: its rows among the step's tokens. length: tokens in the cache after this step.
    first_block: the first block's id if its blocks lie one after the other, else None.
    """

    start: int
    end: int
    length: int
    first_block: int | None

    @property
    def num_queries(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class AttentionMetadata:
    """tokens: rows of this step; seqs: sequences of this step; blocks: most blocks of one of them.

    slots: [tokens] int64, block_id * block_size + offset, where each token's KV is written.
    cu_query_lengths: [seqs + 1] int32, where each sequence's rows begin.
    kv_lengths: [seqs] int32, tokens in the cache after this step.
    block_tables: [seqs, blocks] int32, padded with the spare block 0.
    """

    slots: Tensor
    cu_query_lengths: Tensor
    kv_lengths: Tensor
    block_tables: Tensor
    sequences: tuple[Sequence, ...]
    max_query_length: int
    max_kv_length: int


@dataclass(frozen=True, slots=True)
class Variant:
    """How a layer's attention differs from plain causal softmax.

    sliding_window: a token sees itself and the window - 1 tokens before it.
    softcap: scores become softcap * tanh(score / softcap). sinks: [heads], a score per head that
    takes probability but has no value.
    """

    scale: float
    sliding_window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None
