"""Text completions and what surrounds them: echo, prompt log probabilities, detokenizing."""

from __future__ import annotations

import httpx
import openai
import pytest

from tests.contract.fake_core import ANSWER, Harness

PROMPT = "Héy"
PROMPT_IDS = list(PROMPT.encode())


def test_echo_begins_the_answer_with_the_prompt(client: openai.OpenAI) -> None:
    for prompt in (PROMPT, PROMPT_IDS):
        answer = client.completions.create(model="tiny", prompt=prompt, echo=True, max_tokens=5)
        assert answer.choices[0].text == PROMPT + ANSWER[:5]
        assert answer.usage
        assert answer.usage.completion_tokens == 5


def test_echo_with_log_probabilities_scores_the_prompt(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="tiny", prompt="Hey", echo=True, logprobs=1, max_tokens=1
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs
    assert logprobs.tokens == ["H", "e", "y", "P"]
    assert logprobs.token_logprobs == [None, -101.0, -121.0, -0.5]
    assert logprobs.top_logprobs
    assert logprobs.top_logprobs[0] is None
    assert logprobs.top_logprobs[1:] == [
        {"A": -1.0, "e": -101.0},
        {"A": -1.0, "y": -121.0},
        {"A": -1.0, "P": -0.5},
    ]
    assert logprobs.text_offset == [0, 1, 2, 3]


@pytest.mark.parametrize("stream", [False, True])
def test_max_tokens_0_scores_the_prompt_alone(http: httpx.Client, stream: bool) -> None:
    body = {"prompt": [[72, 105], [72]], "echo": True, "logprobs": 0, "max_tokens": 0}
    response = http.post("/v1/completions", json={**body, "stream": stream})
    if stream:
        lines = [line for line in response.text.splitlines() if line]
        assert lines[-1] == "data: [DONE]"
        assert '"text":"Hi"' in response.text
        return
    choices = response.json()["choices"]
    assert [choice["text"] for choice in choices] == ["Hi", "H"]
    assert [choice["finish_reason"] for choice in choices] == ["length"] * 2
    assert [c["logprobs"]["token_logprobs"] for c in choices] == [[None, -105.0], [None]]
    assert response.json()["usage"]["completion_tokens"] == 0


def test_echo_streams_the_prompt_before_the_answer(client: openai.OpenAI) -> None:
    stream = client.completions.create(
        model="tiny", prompt=["a", "b"], echo=True, max_tokens=3, stream=True
    )
    texts = {0: "", 1: ""}
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == {0: "a" + ANSWER[:3], 1: "b" + ANSWER[:3]}


def test_a_stop_string_in_the_echo_ends_nothing(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="tiny", prompt="Pa", echo=True, stop="Pa", max_tokens=5
    )
    assert answer.choices[0].text == "Pa"
    assert answer.choices[0].finish_reason == "stop"


def test_only_a_completion_with_echo_and_logprobs_asks_the_core_for_the_prompt(
    harness: Harness, http: httpx.Client
) -> None:
    for fields in ({"echo": True}, {"logprobs": 1}, {"echo": True, "logprobs": 2}):
        http.post("/v1/completions", json={"prompt": "x", "max_tokens": 1, **fields})
    asked = [submit.sampling.prompt_logprobs for submit in harness.core.submitted]
    assert asked == [None, None, 2]


def test_detokenizing_gives_back_what_was_tokenized(http: httpx.Client) -> None:
    tokens = http.post("/tokenize", json={"prompt": "巴黎 🗼"}).json()["tokens"]
    assert http.post("/detokenize", json={"tokens": tokens}).json() == {"prompt": "巴黎 🗼"}
    special = http.post("/detokenize", json={"tokens": [257]}).json()
    assert special == {"prompt": "<|im_end|>"}
    refused = http.post("/detokenize", json={"tokens": [999]})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tokens")
