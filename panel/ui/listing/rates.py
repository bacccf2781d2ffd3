"""Tokens a second from a counter that is read now and then. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

KEPT = 60


@dataclass(frozen=True)
class Sample:
    """The counter's value at a time in seconds."""

    at_s: float
    count: int


def with_sample(samples: Sequence[Sample], new: Sample) -> list[Sample]:
    """The newest samples with one more; a counter that fell began anew, and so do they."""
    if samples and new.count < samples[-1].count:
        return [new]
    return [*samples, new][-KEPT:]


def rates_per_s(samples: Sequence[Sample]) -> list[float]:
    """The rate between each two neighbours."""
    pairs = pairwise(samples)
    return [(b.count - a.count) / (b.at_s - a.at_s) for a, b in pairs if b.at_s > a.at_s]
