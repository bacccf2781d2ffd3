"""Which tokens go through the model in the next step. Decides only: no torch, no I/O. A clock is
read for what is reported (how long a request waited), not for what is decided.

There is no prefill or decode phase: each request has computed tokens that catch up with its
tokens, and all share one budget of tokens a step. Requests that need one token (they are decoding)
go first, then the others in chunks, then newcomers in the order of their arrival, whom nobody
overtakes.

Running requests stay sorted by arrival, and all of them arrived before all that wait. A newcomer is
let in only when the blocks for all its tokens are free, so only growing answers can run out of
blocks; then the newest running request gives its blocks back and waits at the front, to be computed
again (its named blocks usually survive in the prefix cache). The oldest is thus never held up, and
as no request is admitted that could not run alone, every request ends.
Sources: vLLM v1's scheduler (one rule for all tokens); Kwon et al. 2023, section 4.5 (recompute).
"""

from __future__ import annotations

import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.core.blocks import BlockManager
from engine.core.messages import Output, PromptPart, SamplingParams, Stats
from engine.core.request import Request
from engine.errors import ContextLengthExceeded, RequestError
from engine.footprint import blocks_for


@dataclass(frozen=True, slots=True)
class Limits:
    """max_batch_tokens: budget of a step. max_num_seqs: most requests that run together."""

    max_seq_length: int
    max_num_seqs: int
    max_batch_tokens: int
    block_size: int
    vocab_size: int
    enable_prefix_cache: bool = True


@dataclass(frozen=True, slots=True)
class Chunk:
    """The tokens [start, end) of a request that one step computes."""

    request: Request
    start: int
    end: int

    @property
    def num_tokens(self) -> int:
        return self.end - self.start

    @property
    def is_sampled(self) -> bool:
        """Whether the step reaches the request's last token, whose logits give the next one."""
        return self.end == len(self.request.token_ids)

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
class Counters:
    """Since the start. A prompt counts once, when it is computed, however often it is redone."""

    steps: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    cached_tokens: int = 0
    preemptions: int = 0


@dataclass(slots=True)
class _Plan:
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
            start = request.num_computed
            self.chunks[request.request_id] = Chunk(request, start, start + count)
            self.budget -= count

    def drop(self, request: Request) -> None:
        self.preempted.add(request.request_id)
        chunk = self.chunks.pop(request.request_id, None)
        if chunk:
            self.budget += chunk.num_tokens


class Scheduler:
    """Owns the requests and their blocks. One `schedule`, then one `commit` or `fail`, a step."""

    def __init__(
        self,
        limits: Limits,
        blocks: BlockManager,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self.limits = limits
        self.blocks = blocks
        self.counters = Counters()
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []
        self._ids: set[str] = set()

    # --- admission -----------------------------------------------------------------------------

    def submit(
        self, request_id: str, prompt_ids: Sequence[int], sampling: SamplingParams
    ) -> Request:
        """Let a request wait for its turn. Raises RequestError if it could never be answered."""
        if request_id in self._ids:
            raise RequestError(f"The request id {request_id} is already in use.")
        if not prompt_ids:
            raise RequestError("The prompt has no tokens.", fix="Send at least one.")
        self._check_ids(prompt_ids, "prompt")
        self._check_ids([token for token, _ in sampling.logit_bias], "logit_bias")
        limits = self.limits
        if len(prompt_ids) >= limits.max_seq_length:
            raise ContextLengthExceeded(
                f"The prompt has {len(prompt_ids)} tokens; this engine takes at most "
                f"{limits.max_seq_length} tokens of prompt and answer together.",
                fix="Shorten the prompt, or start the engine with a larger --max-seq-length.",
                code="context_length_exceeded",
            )
        max_length = min(len(prompt_ids) + sampling.max_new_tokens, limits.max_seq_length)
        if blocks_for(max_length, limits.block_size) > self.blocks.num_usable:
            raise ContextLengthExceeded(
                f"Prompt and answer may take {max_length} tokens; the KV cache holds "
                f"{self.blocks.num_usable * limits.block_size} tokens.",
                fix="Ask for fewer new tokens, or start the engine with a larger --kv-cache-gib.",
                code="context_length_exceeded",
            )
        request = Request(
            request_id,
            prompt_ids,
            sampling,
            max_length=max_length,
            block_size=limits.block_size,
            arrived_at=self.clock(),
        )
        self._ids.add(request_id)
        self._waiting.append(request)
        return request

    def _check_ids(self, token_ids: Sequence[int], param: str) -> None:
        """An id beyond the vocabulary would fail the whole step, and on a GPU the whole process."""
        for token in (min(token_ids, default=0), max(token_ids, default=0)):
            if not 0 <= token < self.limits.vocab_size:
                raise RequestError(
                    f"{token} is not a token id; this model has 0 … {self.limits.vocab_size - 1}.",
                    param=param,
                )

    def abort(self, request_id: str) -> bool:
        """Forget a request and free its blocks. False if it has ended or never was."""
        for request in (*self._running, *self._waiting):
            if request.request_id == request_id:
                self._forget(request)
                return True
        return False

    @property
    def has_work(self) -> bool:
        return bool(self._running or self._waiting)

    # --- one step ------------------------------------------------------------------------------

    def schedule(self) -> Batch:
        """The next step's chunks, with blocks held for every token in them. Empty if no work."""
        plan = _Plan(self.limits.max_batch_tokens)
        for request in _one_pending_first(self._running):
            if request.request_id not in plan.preempted and self._make_room(request, plan):
                plan.add(request)
        if not plan.preempted:
            self._admit(plan)
        assert plan.chunks or not self.has_work, f"work but no step: {self._waiting}"
        return list(plan.chunks.values())

    def _make_room(self, request: Request, plan: _Plan) -> bool:
        """Hold blocks for all of the request's tokens. False if the request itself had to yield."""
        missing = self._missing_blocks(request)
        while missing > self.blocks.num_free:
            newest = self._running[-1]
            plan.drop(newest)
            self._preempt(newest)
            if newest is request:
                return False
        request.block_ids.extend(self.blocks.take_new(missing))
        return True

    def _missing_blocks(self, request: Request) -> int:
        return blocks_for(len(request.token_ids), self.limits.block_size) - len(request.block_ids)

    def _preempt(self, request: Request) -> None:
        self._running.remove(request)
        self._release(request)
        self._waiting.appendleft(request)
        self.counters.preemptions += 1

    def _admit(self, plan: _Plan) -> None:
        while self._waiting and plan.budget and len(self._running) < self.limits.max_num_seqs:
            if not self._start(self._waiting[0]):
                return
            request = self._waiting.popleft()
            self._running.append(request)
            plan.add(request)

    def _start(self, request: Request) -> bool:
        """Hold blocks for all tokens of a newcomer, shared ones first. False if too few are free.

        One free block for each running request is left over, or the newcomer would soon be the
        one that has to yield.
        """
        shared = self._cached_blocks(request)
        new = blocks_for(len(request.token_ids), self.limits.block_size) - len(shared)
        spare = min(len(self._running), self.blocks.num_usable)
        if new + self.blocks.num_kept(shared) + spare > self.blocks.num_free:
            return False
        self.blocks.share(shared)
        request.block_ids = array("i", [*shared, *self.blocks.take_new(new)])
        request.num_computed = len(shared) * self.limits.block_size
        if not request.num_generated:
            request.num_cached = request.num_computed
        request.started_at = request.started_at or self.clock()
        return True

    def _cached_blocks(self, request: Request) -> list[int]:
        """Blocks of the request's beginning; its last token is always left to compute."""
        if not self.limits.enable_prefix_cache or request.reads_prompt:
            return []
        num_full = (len(request.token_ids) - 1) // self.limits.block_size
        return self.blocks.find(request.chain.upto(request.token_ids, num_full))

    # --- after a step --------------------------------------------------------------------------

    def commit(self, batch: Batch, sampled: Sequence[Sampled]) -> list[Output]:
        """Take in a step's results: one Sampled for each chunk that `is_told`, in order."""
        self.counters.steps += 1
        results = iter(sampled)
        outputs: list[Output] = []
        for chunk in batch:
            request, is_told = chunk.request, chunk.is_told
            request.num_computed = chunk.end
            self._name_full_blocks(chunk)
            if is_told:
                outputs.append(self._tell(request, next(results)))
        assert next(results, None) is None, "more results than chunks asked for one"
        return outputs

    def _tell(self, request: Request, sampled: Sampled) -> Output:
        prompt = [sampled.prompt] if sampled.prompt else None
        if sampled.token_id is None:
            return Output(request.request_id, [], prompt=prompt)
        is_first = not request.num_generated
        request.token_ids.append(sampled.token_id)
        self.counters.generated_tokens += 1
        if sampled.must_end:
            request.max_length = len(request.token_ids)
        finish_reason = request.finish_reason
        if finish_reason:
            self._forget(request)
        return Output(
            request_id=request.request_id,
            token_ids=[sampled.token_id],
            finish_reason=finish_reason,
            logprobs=None if sampled.logprobs is None else [sampled.logprobs],
            cached_tokens=request.num_cached if is_first else 0,
            times_s=self._first_token(request) if is_first else None,
            prompt=prompt,
        )

    def _first_token(self, request: Request) -> list[float]:
        """Count its prompt; the seconds that it waited and was computed."""
        self.counters.prompt_tokens += request.num_prompt
        self.counters.cached_tokens += request.num_cached
        started_at = request.started_at or request.arrived_at
        return [started_at - request.arrived_at, self.clock() - started_at]

    def _name_full_blocks(self, chunk: Chunk) -> None:
        if not self.limits.enable_prefix_cache:
            return
        request, size = chunk.request, self.limits.block_size
        first, last = chunk.start // size, chunk.end // size
        if first < last:
            names = request.chain.upto(request.token_ids, last)
            for index in range(first, last):
                self.blocks.name(request.block_ids[index], names[index])

    def fail(self, batch: Batch) -> list[Request]:
        """Drop the requests of a step that raised; the others are untouched."""
        failed = [chunk.request for chunk in batch]
        for request in failed:
            self._forget(request)
        return failed

    # --- upkeep --------------------------------------------------------------------------------

    def _forget(self, request: Request) -> None:
        self._ids.remove(request.request_id)
        if request in self._running:
            self._running.remove(request)
        else:
            self._waiting.remove(request)
        self._release(request)

    def _release(self, request: Request) -> None:
        self.blocks.release(request.block_ids)
        request.block_ids = array("i")
        request.num_computed = 0

    def stats(self) -> Stats:
        counters = self.counters
        return Stats(
            running=len(self._running),
            waiting=len(self._waiting),
            blocks_used=self.blocks.num_held,
            blocks_total=self.blocks.num_usable,
            steps=counters.steps,
            prompt_tokens=counters.prompt_tokens,
            generated_tokens=counters.generated_tokens,
            cached_tokens=counters.cached_tokens,
            preemptions=counters.preemptions,
        )

    def check_invariants(self) -> None:
        """Assert that no block is lost or held twice. Cheap enough to run whenever idle."""
        self.blocks.check_invariants(r.block_ids for r in (*self._running, *self._waiting))


def _one_pending_first(requests: Iterable[Request]) -> Iterator[Request]:
    """Requests in order of arrival, those that need a single token before those that need more."""
    ordered = list(requests)
    yield from (request for request in ordered if request.num_pending == 1)
    yield from (request for request in ordered if request.num_pending > 1)
