"""The memory bar and the timeline as plain data."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from db.models import Stage, StageName, StageStatus
from panel.sizing.fit import Fit, Precision, Verdict
from panel.ui.charts import MemoryWords, memory_bar, timeline
from panel.ui.progress import progress_of, spans_of

GIB = 1024**3
WORDS = MemoryWords("weights", "kv", "activations", "runtime", "free", "kept", "why kept", "16 GiB")
BEGIN = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def fit(total_gib: float, *, capacity_gib: float = 16, budget_gib: float = 14) -> Fit:
    """A fit whose total is all weights but for 1 GiB of each other part."""
    return Fit(
        precision=Precision.BFLOAT16,
        verdict=Verdict.FITS,
        device_name="GPU 0",
        capacity_bytes=int(capacity_gib * GIB),
        budget_bytes=int(budget_gib * GIB),
        weight_bytes=int((total_gib - 3) * GIB),
        kv_bytes=GIB,
        activation_bytes=GIB,
        runtime_bytes=GIB,
        total_bytes=int(total_gib * GIB),
        error_bytes=GIB // 4,
        headroom_bytes=int((budget_gib - total_gib) * GIB),
        kv_bytes_per_token=57344,
        max_context_tokens=8192,
        max_parallel_requests=4,
    )


def values(spec: dict) -> list[float]:
    return [series["data"][0] for series in spec["series"]]


@pytest.mark.parametrize("is_dark", [False, True])
def test_the_parts_of_a_fitting_model_fill_the_device_exactly(is_dark: bool) -> None:
    spec = memory_bar(fit(10), WORDS, is_dark=is_dark)
    assert values(spec) == [7, 1, 1, 1, 4, 2]
    assert sum(values(spec)) == 16
    assert spec["series"][-1]["markLine"]["data"] == [{"xAxis": 16}]


def test_a_model_that_is_too_large_ends_beyond_the_line() -> None:
    spec = memory_bar(fit(20), WORDS, is_dark=False)
    assert values(spec) == [17, 1, 1, 1, 0, 0]
    assert spec["xAxis"]["max"] > 20


def test_a_model_between_budget_and_capacity_takes_from_what_is_kept_back() -> None:
    assert values(memory_bar(fit(15), WORDS, is_dark=False)) == [12, 1, 1, 1, 0, 1]


def stage(name: StageName, status: StageStatus, start_s: float, took_s: float) -> Stage:
    has_begun = status is not StageStatus.PENDING
    ended = status in (StageStatus.DONE, StageStatus.FAILED)
    return Stage(
        name=name,
        status=status,
        detail="",
        started_at=BEGIN + timedelta(seconds=start_s) if has_begun else None,
        ended_at=BEGIN + timedelta(seconds=start_s + took_s) if ended else None,
    )


def test_a_timeline_begins_each_bar_where_its_stage_began() -> None:
    stages = [
        stage(StageName.START, StageStatus.DONE, 0, 2),
        stage(StageName.LOAD, StageStatus.FAILED, 2, 5),
        stage(StageName.WARM_UP, StageStatus.PENDING, 0, 0),
    ]
    names = {name: name.value for name in StageName}
    spans = spans_of(stages, names, names)
    assert [(span.label, span.start_s, span.duration_s) for span in spans] == [
        ("start", 0, 2),
        ("load", 2, 5),
    ]
    spec = timeline(spans, is_dark=True, seconds_name="s")
    assert spec["series"][0]["data"] == [0, 2]


def test_progress_weighs_stages_by_what_they_took_in_the_past() -> None:
    stages = [
        stage(StageName.START, StageStatus.DONE, 0, 1),
        stage(StageName.LOAD, StageStatus.PENDING, 0, 0),
    ]
    now = progress_of(stages, {StageName.START: 1.0, StageName.LOAD: 9.0})
    assert now.share == pytest.approx(0.1)
    assert now.left_s == pytest.approx(9.0)


def test_without_a_past_no_remaining_time_is_promised() -> None:
    stages = [stage(StageName.START, StageStatus.PENDING, 0, 0)]
    assert progress_of(stages, {}).left_s is None
