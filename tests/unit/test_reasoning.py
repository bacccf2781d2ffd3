"""Thoughts apart from the answer, wherever the markers are cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.api.reasoning import (
    ReasoningFormat,
    ReasoningSplitter,
    Start,
    after_thoughts,
    format_named,
    format_of,
    start_of,
)
from engine.structured import (
    GrammarError,
    LlguidanceCompiler,
    TokenizerText,
    check,
    json_schema_grammar,
    words_of,
)
from tests.contract.tiny_tokenizer import BOS, BOS_ID, EOS, EOS_ID, VOCAB_SIZE, tiny_tokenizer

THINK = format_named("qwen3")


def _split(text: str, start: Start, size: int = 1) -> tuple[str, str]:
    splitter = ReasoningSplitter(THINK, start)
    pieces = [splitter.push(text[at : at + size]) for at in range(0, len(text), size)]
    pieces.append(splitter.push("", is_last=True))
    return "".join(piece[0] for piece in pieces), "".join(piece[1] for piece in pieces)


@pytest.mark.parametrize("size", [1, 2, 5, 100])
@pytest.mark.parametrize(
    ("text", "start", "expected"),
    [
        ("<think>\nHm 1 < 2.\n</think>\n\nYes 🗻.", Start.BEFORE, ("Hm 1 < 2.", "Yes 🗻.")),
        ("\n<think>a</think>b", Start.BEFORE, ("a", "b")),
        ("Hm.\n</think>\n\nYes.", Start.INSIDE, ("Hm.", "Yes.")),
        ("No thoughts <think> here", Start.BEFORE, ("", "No thoughts <think> here")),
        ("\n<th", Start.BEFORE, ("", "\n<th")),
        ("cut off </thi", Start.INSIDE, ("cut off </thi", "")),
        ("<think>\n\n</think>\n\nYes.", Start.BEFORE, ("", "Yes.")),
        ("<think>not looked for</think>", Start.AFTER, ("", "<think>not looked for</think>")),
        ("a  b\n\nc</think>d </think>", Start.INSIDE, ("a  b\n\nc", "d </think>")),
        ("", Start.BEFORE, ("", "")),
    ],
)
def test_thoughts_are_split_off_however_the_text_arrives(
    text: str, start: Start, expected: tuple[str, str], size: int
) -> None:
    assert _split(text, start, size) == expected


@given(text=st.text(alphabet="<>/think ab\n🗻", max_size=40), start=st.sampled_from(list(Start)))
def test_without_an_end_marker_nothing_but_blanks_is_lost(text: str, start: Start) -> None:
    text = text.replace("</think>", "").replace("<think>", "")
    thoughts, rest = _split(text, start, 3)
    assert (thoughts + rest).strip() == text.strip()
    assert not (thoughts and rest)


def test_the_prompts_end_tells_where_the_answer_begins() -> None:
    assert start_of(THINK, "<|assistant|>\n<think>\n") is Start.INSIDE
    assert start_of(THINK, "assistant\n<think>\n\n</think>\n\n") is Start.AFTER
    assert start_of(THINK, "assistant\n") is Start.BEFORE


def test_the_family_is_told_by_the_chat_template() -> None:
    assert format_of("{{ x.split('</think>') }}")
    assert (row := format_of("[/THINK]")) is not None
    assert row.name == "mistral"
    assert format_of("{{ messages }}") is None


@pytest.mark.parametrize(
    ("text", "starts"),
    [
        ('{"a": 1}', {Start.BEFORE, Start.AFTER}),
        ('<think>hm {"</think>\n\n{"a": 1}', {Start.BEFORE, Start.INSIDE}),
        ('hm</think>{"a": 1}', {Start.INSIDE}),
        ('hm</think>\n\n\n{"a": 1}', set()),
        ("<think>no answer</think>", set()),
    ],
)
def test_a_bound_answer_follows_its_grammar_after_the_thoughts(
    text: str, starts: set[Start]
) -> None:
    tokenizer = TokenizerText(tiny_tokenizer().backend_tokenizer.to_str(), EOS_ID, VOCAB_SIZE)
    compiler = LlguidanceCompiler(lambda: tokenizer, VOCAB_SIZE)
    grammar = json_schema_grammar({"type": "object", "properties": {"a": {"type": "integer"}}})
    for start in Start:
        matcher = compiler.compile(after_thoughts(grammar, THINK, start, {}))
        try:
            for byte in text.encode():
                matcher.accept(byte)
            may_end = matcher.fill(np.zeros(words_of(VOCAB_SIZE), np.int32))
        except GrammarError:
            may_end = False
        assert may_end == (start in starts), start


def test_a_marker_that_is_a_special_token_is_named_by_its_id() -> None:
    row = ReasoningFormat("special", BOS, EOS)
    grammar = after_thoughts("start: /x/", row, Start.BEFORE, {BOS: BOS_ID, EOS: EOS_ID})
    assert f"start: (<[{BOS_ID}]> thoughts)? /x/" in grammar
    assert f"<[{EOS_ID}]> gap" in grammar
    check(grammar, param="x")
