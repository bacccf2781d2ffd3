"""Runs one scheduled batch through the model: inputs, forward pass, sampling.

`launch` gives work to the device and comes back; `wait` on what it returned gives the results. On a
GPU the two are apart in time, and a step may read a token of the step before that the host does not
know yet. On a CPU `launch` computes, and `wait` has nothing to wait for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from engine.attention import op
from engine.core.messages import SamplingParams
from engine.core.request import UNKNOWN, Request
from engine.core.scheduler import Batch, Sampled
from engine.worker.group import Group
from engine.worker.inputs import HostInputs, Inputs, lay_out, upload
from engine.worker.kvcache import KVCache, PagedStep
from engine.worker.prompts import hidden_states, with_prompts
from engine.worker.sampler import Drawn, Sampler
from engine.worker.transfer import to_device

_FEW_TOKENS = 8
"""Up to here a step on a CPU waits for memory, not for arithmetic."""


@dataclass(frozen=True, slots=True)
class Launched:
    """A step on its way. scored: logits of prompt tokens; hidden: where someone pools."""

    batch: Batch
    inputs: Inputs
    drawn: Drawn | None
    scored: Tensor
    hidden: Tensor | None

    @torch.inference_mode()
    def wait(self) -> list[Sampled]:
        """One Sampled for each chunk that `is_told`."""
        sampled = self.drawn.collect() if self.drawn else []
        if not any(chunk.request.reads_prompt for chunk in self.batch):
            return sampled
        return with_prompts(sampled, self.batch, self.inputs, self.scored, self.hidden)


class Runner:
    """Owns the model, its KV cache and the device; knows nothing of queues or sockets.

    num_threads: CPU threads for steps of many tokens; a step of few uses half of them, as they
    saturate the memory already and each more is one to wait for. None leaves torch's setting.
    group: the other ranks, which are told of each step before it is computed. The host then waits
    for every step, as the ranks need its tokens.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        cache: KVCache,
        sampler: Sampler,
        device: torch.device,
        *,
        num_threads: int | None = None,
        group: Group | None = None,
    ) -> None:
        self._model = model
        self._cache = cache
        self._sampler = sampler
        self._device = device
        self._num_threads = num_threads
        self._group = group
        self.is_asynchronous = device.type != "cpu" and group is None
        self._newest = torch.empty(0, dtype=torch.int64, device=device)
        self._newest_row: dict[Request, int] = {}
        """The last step's tokens on the device, and whose is which."""

    def admit(self, sampling: SamplingParams) -> None:
        """Compile the request's grammar. Raises GrammarError."""
        self._sampler.admit(sampling)

    def run(self, batch: Batch) -> list[Sampled]:
        """Launch a step and wait for it."""
        return self.launch(batch).wait()

    @torch.inference_mode()
    def launch(self, batch: Batch) -> Launched:
        """Compute the batch's chunks, after all that was launched before.

        The KV of all chunks is in the cache afterwards. A last token that is UNKNOWN is taken from
        the step before, which must have sampled it.
        """
        self._set_threads(sum(chunk.num_tokens for chunk in batch))
        inputs = self._inputs(batch)
        self._fill_unknown(batch, inputs)
        pools = any(chunk.request.sampling.pooling for chunk in batch)
        with hidden_states(self._model, wanted=pools) as hidden:
            logits = self._forward_together(inputs)
        requests = [chunk.request for chunk in batch if chunk.is_sampled]
        count = inputs.num_sampled
        drawn = self._sampler.draw(logits[:count], requests) if requests else None
        if drawn:
            self._newest = drawn.tokens
            self._newest_row = {request: row for row, request in enumerate(requests)}
        return Launched(batch, inputs, drawn, logits[count:], hidden[0] if hidden else None)

    @torch.inference_mode()
    def follow(self, host: HostInputs) -> None:
        """Compute this rank's part of a step that rank 0 told."""
        self._set_threads(host.rows.shape[1])
        self._forward(upload(host, self._cache.block_size, self._device))

    def _inputs(self, batch: Batch) -> Inputs:
        host = lay_out(batch, self._cache.block_size)
        if self._group:
            self._group.tell(host)
        return upload(host, self._cache.block_size, self._device)

    def _forward_together(self, inputs: Inputs) -> Tensor:
        """What fails on one rank leaves the others waiting, so it ends them all."""
        if self._group is None:
            return self._forward(inputs)
        try:
            return self._forward(inputs)
        except Exception as error:  # noqa: BLE001  the core ends, and says why
            self._group.fail(error)

    def _set_threads(self, num_tokens: int) -> None:
        if self._num_threads:
            few = max(1, self._num_threads // 2)
            torch.set_num_threads(few if num_tokens <= _FEW_TOKENS else self._num_threads)

    def _fill_unknown(self, batch: Batch, inputs: Inputs) -> None:
        rows: list[int] = []
        sources: list[int] = []
        for chunk, sequence in zip(batch, inputs.metadata.sequences, strict=True):
            if chunk.request.token_ids[chunk.end - 1] == UNKNOWN:
                rows.append(sequence.end - 1)
                sources.append(self._newest_row[chunk.request])
        if rows:
            index = to_device([*rows, *sources], torch.int64, self._device)
            tokens = self._newest[index[len(rows) :]]
            inputs.token_ids[0].index_copy_(0, index[: len(rows)], tokens)

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
