"""An answer on its way: paced for painting, stored as it grows, kept when it breaks off."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from panel.client import Delta, Figures
from panel.errors import ServerUnreachable
from panel.ui.chat.answer import PAINT_EVERY_S, STORE_EVERY_S, Answering, paced

FIGURES = Figures(
    ttft_s=0.1,
    tpot_s=0.02,
    total_s=1.0,
    prompt_tokens=5,
    completion_tokens=3,
    finish_reason="stop",
)


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_pieces_that_come_fast_are_painted_together_and_none_is_lost() -> None:
    clock = Clock()

    def pieces() -> Iterator[str]:
        for letter in "abcdefgh":
            clock.now += PAINT_EVERY_S / 4
            yield letter

    assert list(paced(pieces(), clock=clock)) == ["a", "bcde", "fgh"]


def test_slow_pieces_are_painted_as_they_come() -> None:
    clock = Clock()

    def pieces() -> Iterator[str]:
        for letter in "abc":
            clock.now += 1
            yield letter

    assert list(paced(pieces(), clock=clock)) == ["a", "b", "c"]


def collected(deltas: Iterator[Delta], clock: Clock) -> tuple[Answering, list[tuple[str, Any]]]:
    stored: list[tuple[str, Any]] = []
    answering = Answering(lambda text, figures: stored.append((text, figures)), clock=clock)
    list(answering.collect(deltas))
    return answering, stored


def test_the_text_is_stored_about_once_a_second_while_it_grows() -> None:
    clock = Clock()

    def deltas() -> Iterator[Delta]:
        for letter in "abcd":
            clock.now += STORE_EVERY_S / 2
            yield Delta(letter)
        yield Delta("", FIGURES)

    answering, stored = collected(deltas(), clock)
    assert [text for text, _ in stored] == ["ab", "abcd"]
    assert stored[0][1]["finish_reason"] == "interrupted"
    assert answering.figures["finish_reason"] == "stop"


def test_an_engine_that_goes_away_leaves_the_text_and_the_reason() -> None:
    stored: list[tuple[str, Any]] = []
    answering = Answering(lambda text, figures: stored.append((text, figures)), clock=Clock())

    def deltas() -> Iterator[Delta]:
        yield Delta("half")
        raise ServerUnreachable("The connection broke.", fix="See the logs.")

    with pytest.raises(ServerUnreachable) as problem:
        list(answering.collect(deltas()))
    answering.fail(problem.value)
    answering.store()
    ((text, figures),) = stored
    assert text == "half"
    assert (figures["finish_reason"], figures["code"]) == ("error", "server_unreachable")
    assert (figures["error"], figures["fix"]) == ("The connection broke.", "See the logs.")
