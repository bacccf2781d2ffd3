"""One request on its way: its tokens, how many of them are computed, the blocks that it holds.

    token_ids   |------- prompt -------|--- generated ---|
    computed    |==================·······················   num_computed
    pending                         |--------------------|   must still go through the model

A request whose pending tokens are all computed in a step gets one new token from that step. Until
the step's result is known, UNKNOWN stands in the token's place.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from engine.core.messages import SamplingParams
from engine.core.prefix import PrefixChain

UNKNOWN = -1
"""In the place of a token that the device has but the host does not know yet."""


class Request:
    """Mutable; the scheduler alone changes it. max_length: tokens at which its answer ends.

    arrived_at, started_at, deadline: seconds on the scheduler's clock. priority: lower goes first.
    serial: grows from request to request. num_unknown: how many of its last tokens are UNKNOWN.
    """

    __slots__ = (
        "__weakref__",
        "arrived_at",
        "block_ids",
        "chain",
        "deadline",
        "max_length",
        "num_cached",
        "num_computed",
        "num_prompt",
        "num_unknown",
        "priority",
        "request_id",
        "sampling",
        "serial",
        "started_at",
        "token_ids",
    )

    def __init__(
        self,
        request_id: str,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        *,
        max_length: int,
        block_size: int,
        arrived_at: float = 0.0,
        priority: int = 0,
        deadline: float | None = None,
        serial: int = 0,
    ) -> None:
        self.request_id = request_id
        self.sampling = sampling
        self.token_ids = array("i", prompt_ids)
        self.num_prompt = len(prompt_ids)
        self.max_length = max_length
        self.num_computed = 0
        self.num_cached = 0
        self.block_ids = array("i")
        self.chain = PrefixChain(block_size)
        self.arrived_at = arrived_at
        self.started_at: float | None = None
        self.priority = priority
        self.deadline = deadline
        self.serial = serial
        self.num_unknown = 0

    @property
    def num_pending(self) -> int:
        return len(self.token_ids) - self.num_computed

    @property
    def num_generated(self) -> int:
        return len(self.token_ids) - self.num_prompt

    @property
    def reads_prompt(self) -> bool:
        """Whether something of the prompt is still to be reported, by the one step after the other
        that computes it; ends with the first token."""
        return self.sampling.reads_prompt and not self.num_generated

    @property
    def may_run_ahead(self) -> bool:
        """Whether the step after this one may be launched before this one's result is known: its
        token can be sampled without the one before, and nothing else is reported of it."""
        params = self.sampling
        has_penalty = params.presence_penalty or params.frequency_penalty
        return not (
            has_penalty
            or params.repetition_penalty != 1.0
            or params.grammar is not None
            or params.logprobs is not None
            or params.reads_prompt
        )

    @property
    def ends_with_unknown(self) -> bool:
        return bool(self.num_unknown) and len(self.token_ids) >= self.max_length

    def put(self, at: int, token_id: int) -> None:
        """Set the token at a position: a new one, or one that was UNKNOWN."""
        if at == len(self.token_ids):
            self.token_ids.append(token_id)
            return
        assert self.token_ids[at] == UNKNOWN, f"token {at} of {self} is known"
        self.token_ids[at] = token_id
        self.num_unknown -= 1

    def finish_reason_at(self, at: int) -> str | None:
        """Why the request is over with its token at this position, or None if it goes on."""
        if self.token_ids[at] in self.sampling.stop_token_ids:
            return "stop"
        return "length" if at + 1 >= self.max_length else None

    def __repr__(self) -> str:
        return (
            f"Request({self.request_id}: {self.num_prompt} + {self.num_generated} tokens, "
            f"{self.num_computed} computed, {len(self.block_ids)} blocks)"
        )
