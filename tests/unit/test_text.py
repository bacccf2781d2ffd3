"""Text from tokens: characters stay whole, stop strings are found wherever they are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.api.text import Detokenizer, StopStrings


def decode_bytes(ids: list[int]) -> str:
    """One token a byte, as byte-level BPE does in the worst case."""
    return bytes(ids).decode(errors="replace")


def decode_byte_fallback(ids: list[int]) -> str:
    """As SentencePiece: an unfinished character gives one mark for each of its bytes."""
    text, rest = "", bytes(ids)
    while rest:
        for size in (1, 2, 3, 4):
            try:
                text += rest[:size].decode()
            except UnicodeDecodeError:
                continue
            rest = rest[size:]
            break
        else:
            text, rest = text + "\ufffd", rest[1:]
    return text


def decode_words(ids: list[int]) -> str:
    """As SentencePiece: every word brings a space before it, but not the first of a text."""
    return " ".join(f"w{i}" for i in ids)


@pytest.mark.parametrize("decode", [decode_bytes, decode_byte_fallback])
@given(text=st.text(max_size=40), sizes=st.lists(st.integers(1, 9), min_size=1), data=st.data())
def test_the_pieces_add_up_to_the_text_and_never_hold_a_broken_character(
    decode: object, text: str, sizes: list[int], data: st.DataObject
) -> None:
    assert callable(decode)
    ids = list(text.replace("\ufffd", "").encode())
    prompt = list(data.draw(st.text(max_size=10)).encode())
    detokenizer = Detokenizer(decode, prompt)
    pieces: list[str] = []
    at = turn = 0
    while at < len(ids):
        size = sizes[turn % len(sizes)]
        pieces.append(detokenizer.push(ids[at : at + size]))
        at, turn = at + size, turn + 1
    assert "".join(pieces) == text.replace("\ufffd", "")
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_word_in_the_middle_keeps_its_space() -> None:
    after_prompt = Detokenizer(decode_words, [7, 8])
    assert [after_prompt.push([i]) for i in (1, 2, 3)] == [" w1", " w2", " w3"]
    assert Detokenizer(decode_words).push([1, 2]) == "w1 w2"


def test_a_mark_that_the_model_really_wrote_comes_with_what_follows() -> None:
    detokenizer = Detokenizer(decode_bytes)
    pieces = [detokenizer.push([byte]) for byte in "a\ufffdb".encode()]
    assert "".join(pieces) == "a\ufffdb"


def test_bytes_that_are_no_character_do_not_hold_the_text_back_for_ever() -> None:
    detokenizer = Detokenizer(decode_bytes)
    assert "".join(detokenizer.push([0xFF]) for _ in range(10)).count("\ufffd") >= 4


def test_the_window_that_is_decoded_does_not_grow() -> None:
    longest = 0

    def decode(ids: list[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return decode_bytes(ids)

    detokenizer = Detokenizer(decode)
    for byte in b"x" * 1000:
        detokenizer.push([byte])
    assert longest < 30


@given(
    text=st.text(alphabet="abS", max_size=30),
    stops=st.lists(st.text(alphabet="abS", min_size=1, max_size=4), max_size=3),
    size=st.integers(1, 5),
)
def test_a_stop_string_cuts_at_its_first_place_however_the_text_arrives(
    text: str, stops: list[str], size: int
) -> None:
    matcher = StopStrings(stops)
    kept = ""
    for at in range(0, len(text), size):
        kept += matcher.push(text[at : at + size])
    kept += matcher.flush()
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    assert matcher.found == bool(places)
    if places:
        assert text.startswith(kept)
        assert not any(stop in kept for stop in stops)
    else:
        assert kept == text


def test_only_what_may_begin_a_stop_string_is_held() -> None:
    matcher = StopStrings(["</end>"])
    assert matcher.push("a <b") == "a <b"
    assert matcher.push(" </en") == " "
    assert matcher.push("x </end> more") == "</enx "
    assert matcher.found
    assert (matcher.push("more"), matcher.flush()) == ("", "")
