"""What the engine takes: the limits of requests and steps, and the refusal of what exceeds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.core.messages import SamplingParams
from engine.errors import ContextLengthExceeded, RequestError
from engine.footprint import blocks_for


@dataclass(frozen=True, slots=True)
class Limits:
    """max_batch_tokens: budget of a step. max_num_seqs: most requests that run together.

    max_queue: most requests beyond those that wait. batch_wait_s: how long an idle engine lets
    requests gather before the first step.
    """

    max_seq_length: int
    max_num_seqs: int
    max_batch_tokens: int
    block_size: int
    vocab_size: int
    enable_prefix_cache: bool = True
    max_queue: int = 1024
    batch_wait_s: float = 0.0

    def length_for(
        self, prompt_ids: Sequence[int], sampling: SamplingParams, *, num_usable_blocks: int
    ) -> int:
        """Tokens at which the answer ends. Raises RequestError if it could never be given."""
        if not prompt_ids:
            raise RequestError("The prompt has no tokens.", fix="Send at least one.")
        self._check_ids(prompt_ids, "prompt")
        self._check_ids([token for token, _ in sampling.logit_bias], "logit_bias")
        if len(prompt_ids) >= self.max_seq_length:
            raise ContextLengthExceeded(
                f"The prompt has {len(prompt_ids)} tokens; this engine takes at most "
                f"{self.max_seq_length} tokens of prompt and answer together.",
                fix="Shorten the prompt, or start the engine with a larger --max-seq-length.",
                code="context_length_exceeded",
            )
        length = min(len(prompt_ids) + sampling.max_new_tokens, self.max_seq_length)
        if blocks_for(length, self.block_size) > num_usable_blocks:
            raise ContextLengthExceeded(
                f"Prompt and answer may take {length} tokens; the KV cache holds "
                f"{num_usable_blocks * self.block_size} tokens.",
                fix="Ask for fewer new tokens, or start the engine with a larger --kv-cache-gib.",
                code="context_length_exceeded",
            )
        return length

    def _check_ids(self, token_ids: Sequence[int], param: str) -> None:
        """An id beyond the vocabulary would fail the whole step, and on a GPU the whole process."""
        for token in (min(token_ids, default=0), max(token_ids, default=0)):
            if not 0 <= token < self.vocab_size:
                raise RequestError(
                    f"{token} is not a token id; this model has 0 … {self.vocab_size - 1}.",
                    param=param,
                )
