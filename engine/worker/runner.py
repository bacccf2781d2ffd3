"""Runs one scheduled batch through the model: inputs, forward pass, sampling."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from engine.attention import op
from engine.core.messages import SamplingParams
from engine.core.scheduler import Batch, Sampled
from engine.worker.inputs import Inputs, build_inputs
from engine.worker.kvcache import KVCache, PagedStep
from engine.worker.prompts import hidden_states, with_prompts
from engine.worker.sampler import Sampler

_FEW_TOKENS = 8
"""Up to here a step on a CPU waits for memory, not for arithmetic."""


class Runner:
    """Owns the model, its KV cache and the device; knows nothing of queues or sockets.

    num_threads: CPU threads for steps of many tokens; a step of few uses half of them, as they
    saturate the memory already and each more is one to wait for. None leaves torch's setting.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        cache: KVCache,
        sampler: Sampler,
        device: torch.device,
        *,
        num_threads: int | None = None,
    ) -> None:
        self._model = model
        self._cache = cache
        self._sampler = sampler
        self._device = device
        self._num_threads = num_threads

    def admit(self, sampling: SamplingParams) -> None:
        """Compile the request's grammar. Raises GrammarError."""
        self._sampler.admit(sampling)

    @torch.inference_mode()
    def run(self, batch: Batch) -> list[Sampled]:
        """Compute the batch's chunks; one Sampled for each chunk that `is_told`.

        The KV of all chunks is in the cache afterwards.
        """
        if self._num_threads:
            is_small = sum(chunk.num_tokens for chunk in batch) <= _FEW_TOKENS
            torch.set_num_threads(max(1, self._num_threads // 2) if is_small else self._num_threads)
        inputs = build_inputs(batch, self._cache.block_size, self._device)
        pools = any(chunk.request.sampling.pooling for chunk in batch)
        with hidden_states(self._model, wanted=pools) as hidden:
            logits = self._forward(inputs)
        requests = [chunk.request for chunk in batch if chunk.is_sampled]
        count = inputs.num_sampled
        sampled = self._sampler.sample(logits[:count], requests) if requests else []
        if not any(chunk.request.reads_prompt for chunk in batch):
            return sampled
        return with_prompts(sampled, batch, inputs, logits[count:], hidden[0] if hidden else None)

    def _forward(self, inputs: Inputs) -> Tensor:
        """Logits [sampled + scored, vocab]."""
        with op.during(PagedStep(self._cache, inputs.metadata)):
            output = self._model(
                input_ids=inputs.token_ids,
                position_ids=inputs.position_ids,
                use_cache=False,
                logits_to_keep=inputs.logit_rows,
            )
        logits: Tensor = output.logits[0]
        num_tokens = inputs.token_ids.shape[1]
        is_whole = logits.shape[0] == num_tokens != inputs.logit_rows.shape[0]
        return logits[inputs.logit_rows] if is_whole else logits
