"""One request on its way: its tokens, how many of them are computed, the blocks that it holds.

    token_ids   |------- prompt -------|--- generated ---|
    computed    |==================·······················   num_computed
    pending                         |--------------------|   must still go through the model

A request whose pending tokens are all computed in a step gets one new token from that step.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from engine.core.messages import SamplingParams
from engine.core.prefix import PrefixChain


class Request:
    """Mutable; the scheduler alone changes it. max_length: tokens at which its answer ends.

    arrived_at, started_at: seconds on the scheduler's clock; no decision rests on them.
    """

    __slots__ = (
        "__weakref__",
        "arrived_at",
        "block_ids",
        "chain",
        "max_length",
        "num_cached",
        "num_computed",
        "num_prompt",
        "request_id",
        "sampling",
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
    def finish_reason(self) -> str | None:
        """Why the request is over after its newest token, or None while it goes on."""
        if self.num_generated and self.token_ids[-1] in self.sampling.stop_token_ids:
            return "stop"
        return "length" if len(self.token_ids) >= self.max_length else None

    def __repr__(self) -> str:
        return (
            f"Request({self.request_id}: {self.num_prompt} + {self.num_generated} tokens, "
            f"{self.num_computed} computed, {len(self.block_ids)} blocks)"
        )
