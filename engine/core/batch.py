"""One step's work: which tokens of which requests, and what comes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.core.messages import PromptPart
from engine.core.request import Request


@dataclass(frozen=True, slots=True)
class Chunk:
    """The tokens [start, end) of a request that one step computes.

    is_sampled: the step reaches the request's last token, whose logits give the next one.
    """

    request: Request
    start: int
    end: int
    is_sampled: bool

    @property
    def num_tokens(self) -> int:
        return self.end - self.start

    @property
    def is_told(self) -> bool:
        """Whether the runner has a result for it: a new token, or a part of the prompt."""
        return self.is_sampled or self.request.reads_prompt

    @property
    def num_prompt_logprobs(self) -> int:
        """How many of its first rows give the log probability of the prompt's next token."""
        request = self.request
        if request.sampling.prompt_logprobs is None or request.num_generated:
            return 0
        return max(0, min(self.end, request.num_prompt - 1) - self.start)


@dataclass(frozen=True, slots=True)
class Sampled:
    """A new token. logprobs: `[of the token, [[id, logprob], …]]`, or None if not asked for.

    token_id: None for a chunk that ends within its prompt and only reports of it.
    must_end: no further token can be had, and the request ends as if it had reached its limit.
    """

    token_id: int | None
    logprobs: list[Any] | None = None
    prompt: PromptPart | None = None
    must_end: bool = False


Batch = Sequence[Chunk]

_MOST_PROMPT_LOGPROBS = 256
"""Rows of a step that are scored for prompt log probabilities: each takes a row of the vocabulary,
600 kB for 150,000 tokens."""


@dataclass(slots=True)
class Plan:
    """A step being put together. Preempted requests leave it again."""

    budget: int
    chunks: dict[str, Chunk] = field(default_factory=dict)
    preempted: set[str] = field(default_factory=set)
    scored: int = _MOST_PROMPT_LOGPROBS

    def add(self, request: Request) -> None:
        count = min(request.num_pending, self.budget)
        if request.reads_prompt and request.sampling.prompt_logprobs is not None:
            count = min(count, self.scored)
            self.scored -= count
        if count:
            start, end = request.num_computed, request.num_computed + count
            is_sampled = end == len(request.token_ids)
            self.chunks[request.request_id] = Chunk(request, start, end, is_sampled)
            self.budget -= count

    def drop(self, request: Request) -> None:
        self.preempted.add(request.request_id)
        chunk = self.chunks.pop(request.request_id, None)
        if chunk:
            self.budget += chunk.num_tokens
