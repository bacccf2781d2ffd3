"""Where one request's time went, stage by stage; told to Prometheus, and to a client that asks.

    arrive ─ network: its body ─ tokenize ─ queue ─ prefill ─ decode ─► end
                                            └─ core ─┘   detokenize and network beside it

The parts do not add up to the whole: what waits for the event loop belongs to none.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

WANTED_BY = "x-timing"
"""A request with this header set to 1 gets its times: whole answers in the header `server-timing`,
streams in a comment of the same form before their end mark."""


@dataclass(slots=True)
class Stages:
    """Seconds of each stage. Of several choices, the slowest counts.

    tokenize: template and tokenizer. queue, prefill: measured by the core, until the first token.
    decode: from the first token to the last. detokenize: tokens to text. network: reading the body,
    forming and sending the answer's events.
    """

    tokenize_s: float = 0.0
    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    detokenize_s: float = 0.0
    network_s: float = 0.0

    def items(self) -> Iterator[tuple[str, float]]:
        for entry in fields(self):
            yield entry.name.removesuffix("_s"), getattr(self, entry.name)

    def note_first_token(self, times_s: list[float] | None) -> None:
        """What the core tells with a choice's first token."""
        if times_s:
            self.queue_s = max(self.queue_s, times_s[0])
            self.prefill_s = max(self.prefill_s, times_s[1])

    @contextmanager
    def tokenizing(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.tokenize_s += time.perf_counter() - started

    def __str__(self) -> str:
        """As the header `Server-Timing`: milliseconds."""
        return ", ".join(f"{name};dur={value * 1000:.3f}" for name, value in self.items())
