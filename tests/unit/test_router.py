"""The choice of a replica, without any process."""

from __future__ import annotations

import pytest

from engine.api.router import MAX_IMBALANCE, Router, Routing, least_loaded, prefix_aware

FREE = {0: 0, 1: 0, 2: 0}
PROMPT = list(range(12))


def test_round_robin_takes_each_in_turn_and_leaves_out_who_is_dead() -> None:
    router = Router(Routing.ROUND_ROBIN, 4)
    assert [router.choose(FREE, PROMPT) for _ in range(4)] == [0, 1, 2, 0]
    assert [router.choose({0: 0, 2: 0}, PROMPT) for _ in range(3)] == [2, 0, 2]


def test_the_least_loaded_is_chosen_and_equals_take_turns() -> None:
    assert least_loaded({0: 3, 1: 1, 2: 2}, last=1) == 1
    router = Router(Routing.LEAST_LOADED, 4)
    assert [router.choose({0: 1, 1: 0, 2: 0}, PROMPT) for _ in range(3)] == [1, 2, 1]


def test_a_prompt_goes_where_its_beginning_was_before() -> None:
    router = Router(Routing.PREFIX_AWARE, 4)
    homes = {start: router.choose(FREE, [start] * 12) for start in (7, 8, 9)}
    assert sorted(homes.values()) == [0, 1, 2]
    for start, home in homes.items():
        assert router.choose(FREE, [start] * 12 + [1, 2, 3]) == home


def test_the_longest_known_beginning_wins() -> None:
    router = Router(Routing.PREFIX_AWARE, 4)
    shared, first, second = [1] * 4, [2] * 4, [3] * 4
    home = router.choose({0: 0, 1: 9}, shared + first)
    other = router.choose({0: 9, 1: 0}, shared + second)
    assert (home, other) == (0, 1)
    assert router.choose(FREE, shared + second + [5]) == 1
    assert router.choose(FREE, shared + first + [5]) == 0


def test_prompts_shorter_than_a_block_go_to_the_least_loaded() -> None:
    router = Router(Routing.PREFIX_AWARE, 4)
    assert [router.choose(FREE, [1, 2]) for _ in range(3)] == [0, 1, 2]


@pytest.mark.parametrize(("load", "chosen"), [(MAX_IMBALANCE, 0), (MAX_IMBALANCE + 1, 1)])
def test_a_known_beginning_is_no_reason_to_wait_in_a_long_line(load: int, chosen: int) -> None:
    assert prefix_aware({0: load, 1: 0}, {0: 3, 1: 0}, last=0) == chosen


def test_a_replica_that_starts_anew_has_seen_nothing() -> None:
    router = Router(Routing.PREFIX_AWARE, 4)
    assert router.choose({0: 0, 1: 9}, PROMPT) == 0
    router.forget(0)
    assert router.choose({0: 1, 1: 0}, PROMPT) == 1
