"""Which requests are understood, and what the engine makes of them."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from engine.api.chat import Vocabulary
from engine.api.errors import ApiError
from engine.api.protocol import ChatRequest, CompletionRequest, TokenizeRequest, parse
from engine.api.sampling import room_for, sampling_params
from engine.errors import ContextLengthExceeded, RequestError

USER = [{"role": "user", "content": "Hi"}]


def _chat(**fields: object) -> ChatRequest:
    return parse(ChatRequest, json.dumps({"messages": USER, **fields}).encode())


def _vocabulary(**defaults: float) -> Vocabulary:
    tokenizer = type("Tokenizer", (SimpleNamespace,), {"__len__": lambda _: 100})()
    return Vocabulary(tokenizer, lambda ids: str(ids), (2, 7), defaults)


def test_every_content_form_becomes_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "developer", "content": "be kind"}, {"role": "user", "content": parts}]
    request = parse(ChatRequest, json.dumps({"messages": messages}).encode())
    assert [message.as_template_value() for message in request.messages] == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "ab"},
    ]


def test_the_deepest_error_names_the_field() -> None:
    messages = [{"role": "user", "content": [{"type": "image_url", "text": "x"}]}]
    with pytest.raises(ApiError) as refused:
        _chat(messages=messages)
    assert refused.value.param == "messages[0].content[0].type"
    with pytest.raises(ApiError) as refused:
        _chat(stop=["a", ""])
    assert refused.value.param == "stop[1]"


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ApiError, match="prompt is missing") as refused:
        parse(CompletionRequest, b"{}")
    assert refused.value.code == "missing_required_parameter"


def test_a_field_of_another_route_is_unknown() -> None:
    with pytest.raises(ApiError, match="Unknown field messages"):
        parse(CompletionRequest, json.dumps({"prompt": "x", "messages": USER}).encode())
    with pytest.raises(ApiError, match="Unknown field stream"):
        parse(TokenizeRequest, b'{"prompt": "x", "stream": true}')


@pytest.mark.parametrize("value", [True, "1", 1.5, 10**400], ids=["bool", "text", "float", "huge"])
def test_a_number_of_another_kind_is_refused(value: object) -> None:
    with pytest.raises(ApiError):
        _chat(max_tokens=value)


def test_the_newer_name_of_the_limit_wins() -> None:
    assert _chat(max_tokens=5).token_limit == 5
    assert _chat(max_tokens=5, max_completion_tokens=9).token_limit == 9


def test_what_a_request_leaves_open_comes_from_the_models_own_defaults() -> None:
    vocabulary = _vocabulary(temperature=0.6, top_k=20)
    left_open = sampling_params(_chat(), vocabulary, max_new_tokens=9, choice=0)
    assert (left_open.temperature, left_open.top_k, left_open.top_p) == (0.6, 20, 1.0)
    asked = sampling_params(_chat(temperature=0, top_k=-1), vocabulary, max_new_tokens=9, choice=0)
    assert (asked.temperature, asked.top_k) == (0.0, 0)


def test_each_choice_has_its_own_seed_within_64_bits() -> None:
    request = _chat(seed=2**63 - 1, n=2)
    seeds = [
        sampling_params(request, _vocabulary(), max_new_tokens=1, choice=i).seed for i in range(2)
    ]
    assert seeds == [2**63 - 1, 0]


def test_ignore_eos_leaves_out_the_stop_tokens() -> None:
    usual = sampling_params(_chat(), _vocabulary(), max_new_tokens=1, choice=0)
    assert usual.stop_token_ids == (2, 7)
    endless = sampling_params(_chat(ignore_eos=True), _vocabulary(), max_new_tokens=1, choice=0)
    assert endless == replace(usual, stop_token_ids=())


@pytest.mark.parametrize("name", ["100", "-1", "x", "²", ""])
def test_a_bias_on_no_token_is_refused(name: str) -> None:
    request = _chat(logit_bias={name: 1})
    with pytest.raises(RequestError, match="0 … 99"):
        sampling_params(request, _vocabulary(), max_new_tokens=1, choice=0)


def test_the_room_for_an_answer_is_what_the_prompt_leaves() -> None:
    assert room_for(_chat(), num_prompt_tokens=10, max_seq_length=16) == 6
    assert room_for(_chat(max_tokens=6), num_prompt_tokens=10, max_seq_length=16) == 6
    for limit, prompt, numbers in ((7, 10, ("7", "10", "16")), (None, 16, ("16", "16"))):
        with pytest.raises(ContextLengthExceeded) as refused:
            room_for(_chat(max_tokens=limit), num_prompt_tokens=prompt, max_seq_length=16)
        assert all(number in refused.value.message for number in numbers)
