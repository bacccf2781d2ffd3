"""Tokens a second from a counter that is read now and then."""

from __future__ import annotations

from panel.ui.listing.rates import KEPT, Sample, rates_per_s, with_sample


def test_the_rate_is_between_two_readings() -> None:
    assert rates_per_s([Sample(0, 10), Sample(2, 30), Sample(4, 30)]) == [10, 0]


def test_one_reading_has_no_rate() -> None:
    assert rates_per_s([Sample(0, 10)]) == []


def test_a_restarted_engine_begins_anew() -> None:
    assert with_sample([Sample(0, 10)], Sample(1, 3)) == [Sample(1, 3)]


def test_old_readings_are_dropped() -> None:
    samples: list[Sample] = []
    for second in range(KEPT + 10):
        samples = with_sample(samples, Sample(second, second))
    assert len(samples) == KEPT
