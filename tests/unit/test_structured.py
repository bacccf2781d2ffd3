"""Grammars: what is refused, what a mask allows, and that every constrained answer is valid."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from engine.core.blocks import BlockManager
from engine.core.messages import SamplingParams
from engine.core.request import Request
from engine.core.scheduler import Limits, Sampled, Scheduler
from engine.structured import (
    MAX_GRAMMAR_CHARS,
    GrammarError,
    LlguidanceCompiler,
    TokenizerText,
    check,
    json_object_grammar,
    json_schema_grammar,
    set_bit,
    words_of,
)
from engine.worker.masks import Masks
from engine.worker.sampler import Sampler
from tests.contract.tiny_tokenizer import EOS_ID, VOCAB_SIZE, tiny_tokenizer

PADDED = 288
"""Rows of logits are longer than the vocabulary in many models."""

POINT = {
    "type": "object",
    "properties": {
        "x": {"type": "integer", "minimum": 0, "maximum": 99},
        "ok": {"type": "boolean"},
    },
    "required": ["x", "ok"],
    "additionalProperties": False,
}


def _read_tokenizer() -> TokenizerText:
    return TokenizerText(tiny_tokenizer().backend_tokenizer.to_str(), EOS_ID, VOCAB_SIZE)


@pytest.fixture(scope="module")
def compiler() -> LlguidanceCompiler:
    return LlguidanceCompiler(_read_tokenizer, PADDED)


def _allowed(compiler: LlguidanceCompiler, grammar: str, text: str) -> tuple[bytes, bool]:
    """The bytes that may follow a text, and whether it may end there."""
    matcher = compiler.compile(grammar)
    mask = np.zeros(words_of(PADDED), np.int32)
    for byte in text.encode():
        matcher.fill(mask)
        assert mask[byte // 32] >> byte % 32 & 1, f"{bytes([byte])} is not allowed"
        matcher.accept(byte)
    may_end = matcher.fill(mask)
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
    assert not bits[256:].any(), "special tokens are never a part of a text"
    return bytes(np.flatnonzero(bits).astype(np.uint8)), may_end


def test_only_what_the_schema_allows_may_come_next(compiler: LlguidanceCompiler) -> None:
    grammar = json_schema_grammar(POINT)
    assert _allowed(compiler, grammar, "") == (b"{", False)
    assert _allowed(compiler, grammar, '{"x": 1') == (b"\n ,0123456789", False)
    assert _allowed(compiler, grammar, '{"x":12,"ok":') == (b"\n ft", False)
    assert _allowed(compiler, grammar, '{"x":12,"ok":true}') == (b"", True)


def test_a_mask_can_be_taken_back(compiler: LlguidanceCompiler) -> None:
    matcher = compiler.compile(json_schema_grammar(POINT))
    before, after = (np.zeros(words_of(PADDED), np.int32) for _ in range(2))
    for byte in b'{"x":1':
        matcher.accept(byte)
    matcher.fill(before)
    for byte in b"2,":
        matcher.accept(byte)
    matcher.rollback(2)
    matcher.fill(after)
    assert (before == after).all()


def test_blanks_are_few(compiler: LlguidanceCompiler) -> None:
    following, _ = _allowed(compiler, json_object_grammar(), "{ ")
    assert b" " not in following
    assert _allowed(compiler, json_object_grammar(), '{\n  "a" : [ 1 ],\n\t"b":{}\n}')[1]


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "frob"}, "Invalid type: frob"),
        ({"not": {"type": "string"}}, 'Unimplemented keys: ["not"]'),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-ahead"),
        ({"type": "string", "format": "colour"}, "Unknown format: colour"),
        ({"$ref": "http://elsewhere/x"}, "http://elsewhere/x"),
        ({"type": "integer", "minimum": 5, "maximum": 2}, "minimum (5) is greater than maximum"),
        ({"enum": ["x" * MAX_GRAMMAR_CHARS]}, str(MAX_GRAMMAR_CHARS)),
        ({"not": {}, "x-guidance": {"lenient": True}}, 'Unimplemented keys: ["not"]'),
    ],
)
def test_a_schema_that_cannot_be_enforced_is_refused_with_the_reason(
    schema: dict[str, Any], reason: str
) -> None:
    with pytest.raises(GrammarError) as refused:
        check(json_schema_grammar(schema), param="response_format")
    assert reason in refused.value.message
    assert refused.value.param == "response_format"


def test_a_number_that_would_be_rounded_is_refused() -> None:
    with pytest.raises(GrammarError, match="9007199254740993 is beyond"):
        json_schema_grammar({"properties": {"x": {"enum": [1, 2**53 + 1]}}})


def test_a_mask_has_32_tokens_a_word() -> None:
    mask = np.zeros(words_of(64), np.int32)
    for token in (0, 31, 63):
        set_bit(mask, token, True)
    assert mask.view(np.uint32).tolist() == [2**31 + 1, 2**31]
    set_bit(mask, 31, False)
    assert mask.tolist()[0] == 1


# --- whole answers --------------------------------------------------------------------------------


class _Answers:
    """A scheduler and a real sampler over random logits: a model that says anything."""

    def __init__(self, compiler: LlguidanceCompiler, *, num_blocks: int = 1200) -> None:
        limits = Limits(2000, 8, 64, 4, PADDED)
        self.scheduler = Scheduler(limits, BlockManager(num_blocks))
        self.masks = Masks(compiler, PADDED)
        self.sampler = Sampler(0, self.masks)
        self.generator = torch.Generator().manual_seed(1)

    def ask(self, name: str, grammar: str | None, **params: Any) -> None:
        sampling = SamplingParams(
            **{"max_new_tokens": 1500, "stop_token_ids": (EOS_ID,), "grammar": grammar, **params}
        )
        self.masks.admit(sampling)
        self.scheduler.submit(name, [1, 2, 3], sampling)

    def drain(self) -> dict[str, tuple[list[int], str | None]]:
        answers: dict[str, tuple[list[int], str | None]] = {}
        while self.scheduler.has_work:
            batch = self.scheduler.schedule()
            requests = [chunk.request for chunk in batch if chunk.is_sampled]
            for output in self.scheduler.commit(batch, self._sample(requests)):
                ids, _ = answers.get(output.request_id, ([], None))
                answers[output.request_id] = (ids + output.token_ids, output.finish_reason)
            self.scheduler.check_invariants()
        return answers

    def _sample(self, requests: list[Request]) -> list[Sampled]:
        if not requests:
            return []
        logits = torch.randn(len(requests), PADDED, generator=self.generator)
        for index, request in enumerate(requests):  # long texts end, so that objects do
            logits[index, ord('"')] += 3 + 0.01 * request.num_generated
        return self.sampler.sample(logits, requests)


def _value(ids: list[int], reason: str | None) -> Any:
    assert (ids[-1], reason) == (EOS_ID, "stop")
    return json.loads(bytes(ids[:-1]))


_INTEGERS = st.integers(-(2**53), 2**53)

_LEAF: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.builds(
        lambda lo, size: {"type": "integer", "minimum": lo, "maximum": lo + size},
        st.integers(-1000, 1000),
        st.integers(0, 5000),
    ),
    st.builds(lambda n: {"type": "string", "maxLength": n}, st.integers(0, 8)),
    st.builds(lambda n: {"type": "string", "pattern": f"^[a-f]{{1,{n}}}$"}, st.integers(1, 6)),
    st.just({"type": "string", "format": "date"}),
    st.builds(
        lambda v: {"enum": v},
        st.lists(st.one_of(st.text(max_size=5), _INTEGERS), min_size=1, max_size=4),
    ),
    st.builds(lambda v: {"const": v}, st.one_of(st.text(max_size=6), _INTEGERS, st.none())),
)


def _nested(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=4)
    return st.one_of(
        st.builds(
            lambda properties, required: {
                "type": "object",
                "properties": properties,
                "required": [name for name in properties if name in required],
                "additionalProperties": False,
            },
            st.dictionaries(names, inner, max_size=3),
            st.sets(names),
        ),
        st.builds(
            lambda items, n: {"type": "array", "items": items, "minItems": n, "maxItems": n + 1},
            inner,
            st.integers(0, 2),
        ),
        st.builds(lambda some: {"anyOf": some}, st.lists(inner, min_size=1, max_size=3)),
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(schemas=st.lists(st.recursive(_LEAF, _nested, max_leaves=6), min_size=1, max_size=3))
def test_whatever_a_model_says_its_answers_fit_their_schemas(
    compiler: LlguidanceCompiler, schemas: list[dict[str, Any]]
) -> None:
    answers = _Answers(compiler)
    for index, schema in enumerate(schemas):
        answers.ask(str(index), json_schema_grammar(schema), seed=index)
    answered = answers.drain()
    for index, schema in enumerate(schemas):
        Draft202012Validator(schema).validate(_value(*answered[str(index)]))


def test_bound_and_free_requests_share_a_step_and_survive_preemption(
    compiler: LlguidanceCompiler,
) -> None:
    answers = _Answers(compiler, num_blocks=16)
    for index in range(4):
        answers.ask(f"bound {index}", json_schema_grammar(POINT), max_new_tokens=40)
        answers.ask(f"free {index}", None, max_new_tokens=30, stop_token_ids=())
    answered = answers.drain()
    assert answers.scheduler.counters.preemptions > 0
    for index in range(4):
        Draft202012Validator(POINT).validate(_value(*answered[f"bound {index}"]))
        assert len(answered[f"free {index}"][0]) == 30


def test_a_bias_cannot_lead_out_of_the_grammar(compiler: LlguidanceCompiler) -> None:
    answers = _Answers(compiler)
    bias = tuple((ord(c), 100.0) for c in "[z ")
    answers.ask("a", json_schema_grammar(POINT), logit_bias=bias, temperature=0)
    assert _value(*answers.drain()["a"]).keys() == {"x", "ok"}


def test_a_seed_gives_the_same_answer_alone_and_in_company(compiler: LlguidanceCompiler) -> None:
    grammar = json_schema_grammar({"enum": [f"v{i}" for i in range(100)]})
    alone = _Answers(compiler)
    alone.ask("a", grammar, seed=7, logit_bias=((ord("5"), 60.0),))
    together = _Answers(compiler)
    together.ask("a", grammar, seed=7, logit_bias=((ord("5"), 60.0),))
    together.ask("b", json_object_grammar(), seed=8, max_new_tokens=20)
    assert together.drain()["a"] == alone.drain()["a"]


def test_an_answer_whose_grammar_fails_on_the_way_ends_and_the_others_go_on(
    compiler: LlguidanceCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = _Answers(compiler)
    answers.ask("broken", json_object_grammar())
    answers.ask("whole", json_schema_grammar(POINT))
    fill = answers.masks._fill  # pyright: ignore[reportPrivateUsage]

    def failing(mask: np.ndarray, request: Request) -> None:
        if request.request_id == "broken" and request.num_generated == 5:
            raise GrammarError("too many items")
        fill(mask, request)

    monkeypatch.setattr(answers.masks, "_fill", failing)
    answered = answers.drain()
    assert (len(answered["broken"][0]), answered["broken"][1]) == (6, "length")
    _value(*answered["whole"])


def test_a_grammar_is_compiled_once_and_its_tokenizer_read_with_the_first() -> None:
    reads: list[str] = []

    def read_tokenizer() -> TokenizerText:
        reads.append("read")
        return _read_tokenizer()

    compiler = LlguidanceCompiler(read_tokenizer, VOCAB_SIZE)
    assert reads == []
    for index in range(70):
        compiler.compile(json_schema_grammar({"const": index}))
        compiler.compile(json_schema_grammar({"const": 69}))
    assert reads == ["read"]
    assert len(compiler._compiled) == 64  # pyright: ignore[reportPrivateUsage]
