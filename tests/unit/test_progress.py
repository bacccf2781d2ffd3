from __future__ import annotations

import pytest

from panel.models.progress import Pace, Progress, describe, within


@pytest.mark.parametrize(
    ("done", "total", "speed", "text"),
    [
        (12e6, 98e6, 31e6, "12 of 98 MB, 31 MB/s, 3 s left"),
        (1.2e9, 15.2e9, 31e6, "1.2 of 15.2 GB, 31 MB/s, 8 min left"),
        (1e9, 15e9, 5e5, "1.0 of 15.0 GB, 500 kB/s, 7.8 h left"),
        (0, 98e6, 0, "0 of 98 MB"),
    ],
)
def test_progress_is_told_with_speed_and_time_left(
    done: float, total: float, speed: float, text: str
) -> None:
    assert describe(int(done), int(total), speed) == text


def test_progress_is_reported_at_most_four_times_a_second() -> None:
    now, seen = [0.0], list[Progress]()
    pace = Pace("download", 1000, seen.append, clock=lambda: now[0])
    for _ in range(100):
        now[0] += 0.01
        pace.add(10)
    assert 3 <= len(seen) <= 5
    assert pace.progress().fraction == 1.0


def test_the_speed_is_that_of_the_last_seconds() -> None:
    now, seen = [0.0], list[Progress]()
    pace = Pace("download", 10**9, seen.append, done_bytes=5 * 10**8, clock=lambda: now[0])
    for _ in range(20):
        now[0] += 1
        pace.add(10**7)
    assert "10 MB/s" in seen[-1].detail


def test_bytes_that_were_thrown_away_are_taken_back() -> None:
    pace = Pace("download", 100, lambda progress: None, clock=lambda: 0.0)
    pace.add(60)
    pace.add(-60)
    assert pace.done_bytes == 0


def test_a_part_of_the_work_is_told_on_the_scale_of_the_whole() -> None:
    seen: list[Progress] = []
    within(seen.append, 0.5, 1.0)(Progress("convert", 0, 0, "", share=0.5))
    within(seen.append, 0.0, 0.5)(Progress("download", 10, 10, "complete"))
    assert [progress.fraction for progress in seen] == [0.75, 0.5]
