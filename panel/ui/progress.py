"""How far an attempt is and how long it may still take, from its stages and past ones. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from db.models import Attempt, Stage, StageName, StageStatus
from panel.ui.charts import Span

ENDED = (StageStatus.DONE, StageStatus.SKIPPED)
UNKNOWN_S = 3.0
"""What a stage without past counts for when shares are computed."""


@dataclass(frozen=True)
class Progress:
    """share: 0 … 1. left_s: None where no past attempt tells how long this takes."""

    share: float
    elapsed_s: float
    left_s: float | None


def progress_of(stages: Sequence[Stage], typical: Mapping[StageName, float]) -> Progress:
    """Weigh each stage by what it took in the past; a running one by its own progress."""
    expected = [max(typical.get(stage.name, UNKNOWN_S), 0.05) for stage in stages]
    shares = [_share(stage, typical.get(stage.name)) for stage in stages]
    pairs = list(zip(expected, shares, strict=True))
    total = sum(expected) or 1.0
    done = sum(seconds * share for seconds, share in pairs)
    is_known = all(stage.name in typical or stage.status in ENDED for stage in stages)
    return Progress(
        share=min(1.0, done / total),
        elapsed_s=sum(stage.duration_s or 0.0 for stage in stages),
        left_s=total - done if is_known and typical else None,
    )


def _share(stage: Stage, typical_s: float | None) -> float:
    if stage.status in ENDED:
        return 1.0
    if stage.status is not StageStatus.RUNNING:
        return 0.0
    if stage.progress is not None:
        return stage.progress
    if typical_s and stage.duration_s is not None:
        return min(0.95, stage.duration_s / typical_s)
    return 0.0


def time_to_ready_s(attempt: Attempt | None) -> float | None:
    if attempt is None or attempt.ready_at is None:
        return None
    return (attempt.ready_at - attempt.created_at).total_seconds()


def spans_of(
    stages: Sequence[Stage], names: Mapping[StageName, str], said: Mapping[StageName, str]
) -> list[Span]:
    """The bars of a timeline: only stages that began."""
    begun = [stage for stage in stages if stage.started_at is not None]
    if not begun:
        return []
    first = min(stage.started_at for stage in begun if stage.started_at)
    return [
        Span(
            label=names[stage.name],
            start_s=(stage.started_at - first).total_seconds(),
            duration_s=stage.duration_s or 0.0,
            status=stage.status,
            said=said[stage.name],
        )
        for stage in begun
        if stage.started_at
    ]
