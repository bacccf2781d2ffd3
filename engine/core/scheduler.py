"""Which tokens go through the model in the next step. Decides only: no torch, no I/O; the clock is
passed in.

There is no prefill or decode phase: each request has computed tokens that catch up with its
tokens, and all share one budget of tokens a step. Requests that need one token (they are decoding)
go first, then the others in chunks, then newcomers in the order of the line, where nobody overtakes
the first.

Running requests are sorted by the same places as those in line (`line.place_of`). A newcomer is let
in only when the blocks for all its tokens are free, so only growing answers can run out of blocks;
then the last running request gives its blocks back and returns to its place in line, to be computed
again (its named blocks usually survive in the prefix cache). The first is thus never held up, and
as no request is admitted that could not run alone, every request ends.
Sources: vLLM v1's scheduler (one rule for all tokens); Kwon et al. 2023, section 4.5 (recompute).

The next step may be scheduled before the results of the last one are known:

    schedule n ─ launch ─ launched ─ schedule n+1 ─ launch ─ launched ─ commit n ─ schedule n+2 …

`launched` counts the chunks as computed and puts UNKNOWN where each new token will be; `commit`
fills it in. Nothing is rolled back when such a request turns out to have ended: the token that the
step read was real, and what it gave is dropped. Its blocks may be given away at once, as steps
run on the device in their order.
"""

from __future__ import annotations

import itertools
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from engine.core.batch import Batch, Chunk, Plan, Sampled
from engine.core.blocks import BlockManager
from engine.core.deadlines import Deadlines
from engine.core.limits import Limits
from engine.core.line import Line
from engine.core.messages import Output, SamplingParams, Stats
from engine.core.request import UNKNOWN, Request
from engine.core.turnover import Turnover
from engine.errors import EngineBusy, RequestError
from engine.footprint import blocks_for

__all__ = ["Batch", "Chunk", "Counters", "Limits", "Sampled", "Scheduler"]


@dataclass(slots=True)
class Counters:
    """Since the start. A prompt counts once, when it is computed, however often it is redone."""

    steps: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    cached_tokens: int = 0
    preemptions: int = 0
    refused: int = 0
    expired: int = 0


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
        self._waiting = Line()
        self._running = Line()
        self._requests: dict[str, Request] = {}
        self._deadlines = Deadlines()
        self._turnover = Turnover()
        self._gathers_until = 0.0
        self._serials = itertools.count()

    # --- admission -----------------------------------------------------------------------------

    def submit(
        self,
        request_id: str,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        *,
        priority: int = 0,
        timeout_s: float | None = None,
    ) -> Request:
        """Let a request wait for its turn.

        Raises RequestError if it could never be answered, EngineBusy if too many wait already.
        """
        if request_id in self._requests:
            raise RequestError(f"The request id {request_id} is already in use.")
        length = self.limits.length_for(
            prompt_ids, sampling, num_usable_blocks=self.blocks.num_usable
        )
        now = self.clock()
        self._check_queue(now)
        if not self._requests:
            self._turnover.begin(now)
            self._gathers_until = now + self.limits.batch_wait_s
        request = Request(
            request_id,
            prompt_ids,
            sampling,
            max_length=length,
            block_size=self.limits.block_size,
            arrived_at=now,
            priority=priority,
            deadline=None if timeout_s is None else now + timeout_s,
            serial=next(self._serials),
        )
        self._requests[request_id] = request
        self._waiting.add(request)
        self._deadlines.add(request)
        return request

    def _check_queue(self, now: float) -> None:
        limits, num_here = self.limits, len(self._requests)
        if num_here < limits.max_num_seqs + limits.max_queue:
            return
        self.counters.refused += 1
        retry_after_s = self._turnover.retry_after_s(len(self._waiting), now)
        raise EngineBusy(
            f"{len(self._running)} requests are running and {len(self._waiting)} wait; this engine "
            f"runs {limits.max_num_seqs} at once and lets {limits.max_queue} wait.",
            fix=f"Try again in about {retry_after_s} s.",
            retry_after_s=retry_after_s,
        )

    def abort(self, request_id: str) -> bool:
        """Forget a request and free its blocks. False if it has ended or never was."""
        request = self._requests.get(request_id)
        if request is not None:
            self._forget(request)
        return request is not None

    def expire(self) -> list[Request]:
        """Forget the requests whose deadline has passed, and free their blocks."""
        expired = [r for r in self._deadlines.passed(self.clock()) if self._is_here(r)]
        for request in expired:
            self._forget(request)
        self.counters.expired += len(expired)
        return expired

    @property
    def has_work(self) -> bool:
        return bool(self._requests)

    @property
    def gathering_s(self) -> float:
        """How long an engine that was idle still lets requests gather before its first step."""
        num_waiting = len(self._waiting)
        if len(self._running) or not 0 < num_waiting < self.limits.max_num_seqs:
            return 0.0
        return max(0.0, self._gathers_until - self.clock())

    # --- one step ------------------------------------------------------------------------------

    def schedule(self) -> Batch:
        """The next step's chunks, with blocks held for every token in them.

        Empty if there is no work, or none before the results of a launched step are known.
        """
        plan = Plan(self.limits.max_batch_tokens)
        for request in _one_pending_first(self._running):
            if request.request_id not in plan.preempted and self._make_room(request, plan):
                plan.add(request)
        if not plan.preempted:
            self._admit(plan)
        assert plan.chunks or self._waits_for_results, f"work but no step: {self._requests}"
        return list(plan.chunks.values())

    @property
    def _waits_for_results(self) -> bool:
        requests = self._requests.values()
        return not requests or any(request.num_unknown for request in requests)

    def _make_room(self, request: Request, plan: Plan) -> bool:
        """Hold blocks for all of the request's tokens. False if the request itself had to yield."""
        missing = self._missing_blocks(request)
        while missing > self.blocks.num_free:
            last = self._running.last
            plan.drop(last)
            self._preempt(last)
            if last is request:
                return False
        request.block_ids.extend(self.blocks.take_new(missing))
        return True

    def _missing_blocks(self, request: Request) -> int:
        return blocks_for(len(request.token_ids), self.limits.block_size) - len(request.block_ids)

    def _preempt(self, request: Request) -> None:
        self._running.remove(request)
        self._release(request)
        self._waiting.add(request)
        self.counters.preemptions += 1

    def _admit(self, plan: Plan) -> None:
        while len(self._waiting) and plan.budget and len(self._running) < self.limits.max_num_seqs:
            request = self._waiting.first
            if not self._start(request):
                return
            self._waiting.remove(request)
            self._running.add(request)
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

    def may_run_ahead(self, batch: Batch) -> bool:
        """Whether the step after this one can be scheduled before this one's results are known."""
        return all(chunk.request.may_run_ahead for chunk in batch)

    def launched(self, batch: Batch) -> None:
        """The step is on its way: go on as if it were done, with its new tokens UNKNOWN."""
        for chunk in batch:
            chunk.request.num_computed = chunk.end
            if chunk.is_sampled:
                chunk.request.token_ids.append(UNKNOWN)
                chunk.request.num_unknown += 1

    # --- after a step --------------------------------------------------------------------------

    def commit(self, batch: Batch, sampled: Sequence[Sampled]) -> list[Output]:
        """Take in a step's results: one Sampled for each chunk that `is_told`, in order.

        Results for requests that ended since the step was launched are dropped.
        """
        self.counters.steps += 1
        results = iter(sampled)
        outputs: list[Output] = []
        for chunk in batch:
            result = next(results) if chunk.is_told else None
            if not self._is_here(chunk.request):
                continue
            self._note_computed(chunk)
            if result is not None:
                outputs.append(self._tell(chunk, result))
        assert next(results, None) is None, "more results than chunks asked for one"
        return outputs

    def _note_computed(self, chunk: Chunk) -> None:
        request = chunk.request
        if len(request.block_ids):  # none if it was preempted since the step was launched
            request.num_computed = max(request.num_computed, chunk.end)
            self._name_full_blocks(chunk)

    def _tell(self, chunk: Chunk, sampled: Sampled) -> Output:
        request, at = chunk.request, chunk.end
        prompt = [sampled.prompt] if sampled.prompt else None
        if sampled.token_id is None:
            return Output(request.request_id, [], prompt=prompt)
        is_first = at == request.num_prompt
        self.counters.generated_tokens += 1
        request.put(at, sampled.token_id)
        if sampled.must_end:
            request.max_length = at + 1
        finish_reason = request.finish_reason_at(at)
        if finish_reason:
            self._turnover.end(self.clock())
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
        failed = [chunk.request for chunk in batch if self._is_here(chunk.request)]
        for request in failed:
            self._forget(request)
        return failed

    # --- upkeep --------------------------------------------------------------------------------

    def _is_here(self, request: Request) -> bool:
        return self._requests.get(request.request_id) is request

    def _forget(self, request: Request) -> None:
        del self._requests[request.request_id]
        (self._running if len(request.block_ids) else self._waiting).remove(request)
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
            refused=counters.refused,
            expired=counters.expired,
        )

    def check_invariants(self) -> None:
        """Assert that no block is lost or held twice. Cheap enough to run whenever idle."""
        self.blocks.check_invariants(r.block_ids for r in self._requests.values())


def _one_pending_first(requests: Iterable[Request]) -> Iterator[Request]:
    """Requests in their order, those that need a single token before those that need more. Left
    out are those whose answer will end with the token that is still unknown."""
    ordered = [request for request in requests if not request.ends_with_unknown]
    yield from (request for request in ordered if request.num_pending == 1)
    yield from (request for request in ordered if request.num_pending > 1)
