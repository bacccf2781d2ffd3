"""What a person wants to do with a model: how long the texts, how many at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from panel.errors import PanelError

MAX_PARALLEL = 1024
"""The engine's own limit (EngineConfig.max_num_seqs)."""


@dataclass(frozen=True, slots=True)
class Workload:
    """context_tokens: prompt and answer of one request; parallel_requests: computed together."""

    context_tokens: int = 4096
    parallel_requests: int = 4

    def __post_init__(self) -> None:
        if self.context_tokens < 16:
            raise PanelError(
                f"A context of {self.context_tokens} tokens is too short.", fix="Choose 16 or more."
            )
        if not 1 <= self.parallel_requests <= MAX_PARALLEL:
            raise PanelError(
                f"{self.parallel_requests} parallel requests cannot be served by one engine.",
                fix=f"Choose 1 … {MAX_PARALLEL}.",
            )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        return cls(**values)
