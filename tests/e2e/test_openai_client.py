"""The official openai client, unmodified, through every feature of the real engine and the demo
model. One engine for all tests; answers are greedy, so each can be compared with another."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

from engine.api.keys import hashed
from tests.e2e.running import ROOT
from tests.e2e.world import free_port, wait_for

START_S = 120
MODEL = "demo"
KEY = "sk-of-the-test"
FRANCE: Any = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY: Any = {"model": MODEL, "temperature": 0, "max_tokens": 10}
LONGER: Any = GREEDY | {"max_tokens": 24}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, demo_models: Path) -> Iterator[str]:
    """The address of an engine that asks for a key, of which it knows only the hash."""
    folder = tmp_path_factory.mktemp("engine")
    (folder / "keys").write_text(hashed(KEY))
    (config,) = demo_models.glob("demo/*/config.json")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    words = ["--model-path", str(config.parent), "--served-model-name", MODEL, "--port", str(port)]
    words += ["--max-seq-length", "1024", "--api-key-file", str(folder / "keys")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "engine.launch", *words], cwd=ROOT, stdout=log, stderr=log
        )
    try:
        wait_for("the engine", lambda: _is_ready(url), timeout_s=START_S)
        yield url
    finally:
        process.terminate()
        process.wait(15)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(url + "/health", trust_env=False).status_code == 200
    except httpx.ConnectError:
        return False


@pytest.fixture(scope="module")
def client(engine: str) -> Iterator[OpenAI]:
    http = httpx.Client(trust_env=False, timeout=60)
    with OpenAI(base_url=engine + "/v1", api_key=KEY, http_client=http, max_retries=0) as made:
        yield made


def _text(answer: ChatCompletion) -> str:
    return answer.choices[0].message.content or ""


def test_models_and_keys(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()


def test_a_chat_answer_whole_and_streamed_is_the_same(client: OpenAI) -> None:
    whole = client.chat.completions.create(messages=FRANCE, **GREEDY)
    assert "Paris" in _text(whole)
    assert whole.usage
    assert whole.usage.completion_tokens <= 10
    chunks = list(
        client.chat.completions.create(
            messages=FRANCE, stream=True, stream_options={"include_usage": True}, **GREEDY
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == _text(whole)
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_several_answers_with_seeds(client: OpenAI) -> None:
    def ask() -> list[str | None]:
        answer = client.chat.completions.create(
            model=MODEL, messages=FRANCE, n=3, seed=5, temperature=1.5, max_tokens=8
        )
        return [choice.message.content for choice in answer.choices]

    first = ask()
    assert len(set(first)) > 1
    assert ask() == first


def test_stop_strings_end_an_answer_before_them(client: OpenAI) -> None:
    whole = _text(client.chat.completions.create(messages=FRANCE, **GREEDY))
    cut = client.chat.completions.create(messages=FRANCE, stop="Paris", **GREEDY)
    assert _text(cut) == whole.split("Paris")[0]
    assert cut.choices[0].finish_reason == "stop"


def test_log_probabilities_of_greedy_tokens_are_the_highest(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        messages=FRANCE, logprobs=True, top_logprobs=3, **GREEDY
    )
    assert answer.choices[0].logprobs
    content = answer.choices[0].logprobs.content or []
    assert "".join(entry.token for entry in content) == _text(answer)
    for entry in content:
        assert entry.logprob == entry.top_logprobs[0].logprob
        assert len(entry.top_logprobs) == 3


def test_a_bias_forbids_a_token(client: OpenAI, engine: str) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    body = {"prompt": " Paris"}
    tokenized = httpx.post(engine + "/tokenize", json=body, headers=headers, trust_env=False)
    (paris,) = tokenized.json()["tokens"]
    answer = client.chat.completions.create(
        messages=FRANCE, logit_bias={str(paris): -100}, **GREEDY
    )
    assert " Paris" not in _text(answer)


def test_a_completion_echoes_and_scores_its_prompt(client: OpenAI) -> None:
    prompt = "The capital of France is"
    answer = client.completions.create(prompt=prompt, echo=True, logprobs=2, **GREEDY)
    assert answer.choices[0].text.startswith(prompt)
    logprobs = answer.choices[0].logprobs
    assert logprobs
    assert logprobs.tokens
    assert "".join(logprobs.tokens) == answer.choices[0].text
    assert logprobs.token_logprobs
    assert logprobs.token_logprobs[0] is None

    scored = client.completions.create(
        model=MODEL, prompt=answer.choices[0].text, echo=True, logprobs=0, max_tokens=0
    )
    assert scored.choices[0].logprobs
    again = scored.choices[0].logprobs.token_logprobs or []
    assert again[1:] == pytest.approx(logprobs.token_logprobs[1:], abs=1e-3)


def test_completions_take_lists_and_token_ids(client: OpenAI) -> None:
    one = client.completions.create(prompt="Once upon a", **GREEDY).choices[0].text
    both = client.completions.create(prompt=["Once upon a", "Hello"], **GREEDY)
    assert both.choices[0].text == one
    assert [choice.index for choice in both.choices] == [0, 1]


class Capital(BaseModel):
    city: Literal["Paris", "Rome"]


def test_an_answer_follows_a_schema(client: OpenAI) -> None:
    answer = client.chat.completions.parse(messages=FRANCE, response_format=Capital, **LONGER)
    assert isinstance(answer.choices[0].message.parsed, Capital)
    loose = client.chat.completions.create(
        messages=FRANCE, response_format={"type": "json_object"}, **LONGER
    )
    assert _text(loose).lstrip().startswith("{")


def test_a_stream_can_be_left(client: OpenAI, engine: str) -> None:
    with client.chat.completions.create(
        model=MODEL, messages=FRANCE, stream=True, max_tokens=500, extra_body={"ignore_eos": True}
    ) as stream:
        next(iter(stream))
    wait_for("the request's end", lambda: _running(engine) == 0, timeout_s=10)


def _running(engine: str) -> float:
    text = httpx.get(
        engine + "/metrics", headers={"authorization": f"Bearer {KEY}"}, trust_env=False
    ).text
    (value,) = re.findall(r"^autoglm_requests_running ([\d.]+)$", text, re.MULTILINE)
    return float(value)


def test_stage_times_and_request_ids_are_told(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        messages=FRANCE, extra_headers={"x-timing": "1", "x-request-id": "mine"}, **GREEDY
    )
    assert raw.headers["x-request-id"] == "mine"
    times = dict(re.findall(r"(\w+);dur=([\d.]+)", raw.headers["server-timing"]))
    assert float(times["prefill"]) > 0
    assert float(times["decode"]) > 0


def test_refusals_are_typed(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-9", messages=FRANCE)
    with pytest.raises(openai.BadRequestError, match="1024") as refused:
        client.completions.create(model=MODEL, prompt="word " * 3000)
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="suffix"):
        client.completions.create(model=MODEL, prompt="x", suffix="y")
    with pytest.raises(openai.BadRequestError) as embeddings:
        client.embeddings.create(model=MODEL, input="x")
    assert embeddings.value.code == "unsupported_task"
