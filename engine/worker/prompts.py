"""What a step finds out about the prompts themselves, for requests that ask: `reads_prompt`.

Log probabilities of the prompt's own tokens (OpenAI's echo), and final hidden states (embeddings).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from engine.core.messages import PromptPart
from engine.core.scheduler import Batch, Chunk, Sampled
from engine.worker.inputs import Inputs
from engine.worker.sampler import logprob_entries

_ROWS_AT_ONCE = 64
"""Rows of the vocabulary that are turned into log probabilities together."""


def with_prompts(
    sampled: Sequence[Sampled], batch: Batch, inputs: Inputs, logits: Tensor, hidden: Tensor | None
) -> list[Sampled]:
    """One Sampled for each chunk that `is_told`, with what it tells of its prompt.

    sampled: those of the chunks that are sampled. logits: [scored rows, vocab], those of the
    batch's prompt tokens in order. hidden: [tokens, width], where someone pools.
    """
    tokens, results = iter(sampled), list[Sampled]()
    scored = 0
    for chunk, rows in zip(batch, inputs.metadata.sequences, strict=True):
        if not chunk.is_told:
            continue
        result = next(tokens) if chunk.is_sampled else Sampled(None)
        if chunk.request.reads_prompt:
            count = chunk.num_prompt_logprobs
            entries = _score(chunk, logits[scored : scored + count])
            scored += count
            pooled = None if hidden is None else _pool(chunk, hidden[rows.start : rows.end])
            part = PromptPart(chunk.start, entries, pooled)
            result = Sampled(result.token_id, result.logprobs, part)
        results.append(result)
    return results


def _score(chunk: Chunk, logits: Tensor) -> list[Any] | None:
    """An entry for each token after one of the chunk's rows. logits: [rows, vocab]."""
    wanted = chunk.request.sampling.prompt_logprobs
    if wanted is None:
        return None
    first = chunk.start + 1
    next_ids = torch.tensor(
        chunk.request.token_ids[first : first + len(logits)], device=logits.device
    )
    entries: list[Any] = []
    for at in range(0, len(logits), _ROWS_AT_ONCE):
        raw = logits[at : at + _ROWS_AT_ONCE].float().log_softmax(-1)
        entries += logprob_entries(raw, next_ids[at : at + _ROWS_AT_ONCE], [wanted] * len(raw))
    return entries


def _pool(chunk: Chunk, hidden: Tensor) -> bytes | None:
    """hidden: [rows of the chunk, width]."""
    match chunk.request.sampling.pooling:
        case "mean":
            pooled = hidden.float().sum(0)
        case "last" if chunk.is_sampled:
            pooled = hidden[-1].float()
        case _:
            return None
    return pooled.cpu().numpy().tobytes()


@contextmanager
def hidden_states(model: PreTrainedModel, *, wanted: bool) -> Iterator[list[Tensor]]:
    """Inside the block, a step of the model leaves its final hidden states [tokens, width] here."""
    kept: list[Tensor] = []
    if not wanted:
        yield kept
        return

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        kept.append(output.last_hidden_state[0])

    handle = model.get_decoder().register_forward_hook(keep)
    try:
        yield kept
    finally:
        handle.remove()
