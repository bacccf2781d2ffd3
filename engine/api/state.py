"""What every route of one engine works with."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from engine.api.chat import Vocabulary
from engine.api.core_link import Phase
from engine.api.dialect import Dialect, dialect_of
from engine.api.embedding import pooling_of
from engine.api.errors import engine_unavailable
from engine.api.keys import Keys
from engine.api.replica_figures import ReplicaFigures
from engine.api.replicas import Replicas
from engine.config import EngineConfig
from engine.core.messages import Loading
from engine.metrics import Metrics


@dataclass
class EngineState:
    """The link to the cores, the tokenizer once it is loaded, keys and metrics."""

    config: EngineConfig
    link: Replicas
    keys: Keys
    vocabulary: Vocabulary | None = None
    metrics: Metrics = field(init=False)
    started_at: float = field(default_factory=time.monotonic)
    created_at: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        self.metrics = Metrics(lambda: self.link.stats, self._figures)
        self.metrics.registry.register(ReplicaFigures(self.link))

    def _figures(self) -> dict[str, int]:
        return {"open_requests": self.link.num_open, "tasks": len(asyncio.all_tasks())}

    @cached_property
    def pooling(self) -> str | None:
        """How embeddings are made of hidden states; None where this engine gives none."""
        if self.config.task == "generate":
            return None
        said = pooling_of(Path(self.config.model_path))
        return said or ("last" if self.config.task == "embed" else None)

    @cached_property
    def dialect(self) -> Dialect:
        """How the model calls tools and thinks; read once the tokenizer is there."""
        return dialect_of(self.require_vocabulary(), self.config)

    @property
    def phase(self) -> Phase:
        """Ready only when core and tokenizer both are."""
        if self.link.phase is Phase.READY and self.vocabulary is None:
            return Phase.STARTING
        return self.link.phase

    @property
    def loading(self) -> Loading:
        if self.link.ready:
            return Loading("load", 1.0, "Reading the tokenizer")
        return self.link.loading

    @property
    def uptime_s(self) -> float:
        return time.monotonic() - self.started_at

    @property
    def max_seq_length(self) -> int:
        """The core's limit, which a small KV cache may have lowered."""
        ready = self.link.ready
        return ready.max_seq_length if ready else self.config.max_seq_length

    def require_vocabulary(self) -> Vocabulary:
        """The tokenizer. Raises ApiError (503) unless the engine is ready."""
        if self.phase is not Phase.READY or self.vocabulary is None:
            detail = self.loading.detail if self.phase is Phase.STARTING else self.link.why()
            raise engine_unavailable(self.phase, detail)
        return self.vocabulary
