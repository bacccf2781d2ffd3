"""What the engine promises over HTTP, with a scripted core behind the real socket."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import httpx
import openai
import pytest

from engine.api.chat import Vocabulary
from tests.contract.fake_core import ANSWER, FakeCore, Harness, Script, openai_client
from tests.contract.tiny_tokenizer import EOS_ID

USER = [{"role": "user", "content": "What is the capital of France?"}]


def _chat(http: httpx.Client, **fields: object) -> httpx.Response:
    return http.post("/v1/chat/completions", json={"model": "tiny", "messages": USER, **fields})


def _error(response: httpx.Response) -> dict[str, object]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]


# --- answers --------------------------------------------------------------------------------------


def test_the_official_client_gets_a_whole_chat_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=USER)
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage
    assert answer.usage.completion_tokens == len(ANSWER.encode()) + 1
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@pytest.mark.parametrize("per_step", [1, 2, 3, 7, 100])
def test_a_stream_never_splits_a_character(
    harness: Harness, client: openai.OpenAI, per_step: int
) -> None:
    harness.core.script = Script(text="日本語 🦙🏽 é — ok", per_step=per_step)
    stream = client.chat.completions.create(model="tiny", messages=USER, stream=True)
    chunks = list(stream)
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(texts) == "日本語 🦙🏽 é — ok"
    assert not any("\ufffd" in text for text in texts)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks] == [None] * (len(chunks) - 1) + ["stop"]


def test_an_answer_cut_by_its_limit_ends_before_the_unfinished_character(
    harness: Harness, client: openai.OpenAI
) -> None:
    harness.core.script = Script(text="ab日本")
    answer = client.chat.completions.create(model="tiny", messages=USER, max_tokens=6)
    assert answer.choices[0].message.content == "ab日"
    assert answer.choices[0].finish_reason == "length"


def test_usage_comes_in_a_last_chunk_when_it_is_asked_for(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="tiny", messages=USER, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = list(stream)
    assert last.choices == []
    assert last.usage
    assert last.usage.completion_tokens == len(ANSWER.encode()) + 1
    assert all(chunk.usage is None for chunk in chunks)


def test_usage_comes_in_every_chunk_when_it_is_asked_for(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="tiny",
        messages=USER,
        stream=True,
        max_tokens=3,
        extra_body={"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    )
    counts = [chunk.usage.completion_tokens for chunk in stream if chunk.usage]
    assert counts == sorted(counts)
    assert counts[-1] == 3
    assert len(counts) > 2


def test_a_stream_ends_with_its_end_mark(http: httpx.Client) -> None:
    response = _chat(http, stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.endswith("data: [DONE]\n\n")
    assert '"usage"' not in response.text


def test_completions_take_text_lists_of_text_and_token_ids(client: openai.OpenAI) -> None:
    for prompt, num_choices in (("Hi", 1), (["Hi", "Ho"], 2), ([72, 105], 1), ([[72], [73]], 2)):
        answer = client.completions.create(model="tiny", prompt=prompt, max_tokens=3)
        assert [choice.text for choice in answer.choices] == [ANSWER[:3]] * num_choices


def test_n_answers_have_seeds_of_their_own(harness: Harness, client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=USER, n=3, seed=7)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert [s.sampling.seed for s in harness.core.submitted] == [7, 8, 9]
    assert answer.usage
    assert answer.usage.prompt_tokens == len(harness.core.submitted[0].prompt_ids)


def test_n_answers_are_streamed_side_by_side(client: openai.OpenAI) -> None:
    texts = {0: "", 1: ""}
    for chunk in client.chat.completions.create(model="tiny", messages=USER, n=2, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == {0: ANSWER, 1: ANSWER}


@pytest.mark.parametrize("per_step", [1, 4, 100])
def test_a_stop_string_ends_the_answer_and_frees_the_request(
    harness: Harness, client: openai.OpenAI, per_step: int
) -> None:
    harness.core.script = Script(text="one two STOP three", per_step=per_step, step_s=0.01)
    answer = client.chat.completions.create(model="tiny", messages=USER, stop=["never", "STOP"])
    assert answer.choices[0].message.content == "one two "
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage
    assert answer.usage.completion_tokens == len("one two STOP")
    if per_step < 100:
        harness.until(lambda: harness.core.aborted == [harness.core.submitted[0].request_id])


def test_text_that_only_began_like_a_stop_string_is_not_lost(
    harness: Harness, client: openai.OpenAI
) -> None:
    harness.core.script = Script(text="one ST")
    stream = client.chat.completions.create(model="tiny", messages=USER, stop="STOP", stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "one ST"


def test_chat_log_probabilities_carry_token_bytes_and_alternatives(
    harness: Harness, client: openai.OpenAI
) -> None:
    harness.core.script = Script(text="A日")
    answer = client.chat.completions.create(
        model="tiny", messages=USER, logprobs=True, top_logprobs=2
    )
    assert answer.choices[0].logprobs
    content = answer.choices[0].logprobs.content
    assert content
    assert [entry.token for entry in content] == [
        "A",
        *(f"bytes:\\x{b:02x}" for b in "日".encode()),
    ]
    assert [entry.bytes for entry in content] == [[b] for b in "A日".encode()]
    assert [top.token for top in content[0].top_logprobs] == ["A", "B"]


def test_completion_log_probabilities_have_offsets(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt="x", max_tokens=3, logprobs=1)
    logprobs = answer.choices[0].logprobs
    assert logprobs
    assert logprobs.tokens == list(ANSWER[:3])
    assert logprobs.text_offset == [0, 1, 2]
    assert logprobs.top_logprobs == [{"A": -1.0, letter: -0.5} for letter in ANSWER[:3]]


def test_sampling_fields_reach_the_core(harness: Harness, http: httpx.Client) -> None:
    fields = {"temperature": 0, "top_p": 0.5, "top_k": 3, "min_p": 0.1, "seed": 5}
    fields |= {"presence_penalty": 1, "frequency_penalty": -1, "repetition_penalty": 1.2}
    assert _chat(http, **fields, logit_bias={"65": -100}, max_completion_tokens=9).is_success
    sampling = harness.core.submitted[0].sampling
    assert {name: getattr(sampling, name) for name in fields} == fields
    assert sampling.logit_bias == ((65, -100.0),)
    assert sampling.max_new_tokens == 9
    assert sampling.stop_token_ids == (EOS_ID,)


def test_without_a_limit_an_answer_may_fill_what_is_left(
    harness: Harness, http: httpx.Client
) -> None:
    assert _chat(http).is_success
    (submit,) = harness.core.submitted
    assert submit.sampling.max_new_tokens == 256 - len(submit.prompt_ids)


def test_models_and_tokenize(client: openai.OpenAI, http: httpx.Client) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    assert http.post("/tokenize", json={"prompt": "Hé"}).json() == {
        "tokens": list("Hé".encode()),
        "count": 3,
        "max_model_len": 256,
    }


def _samples(http: httpx.Client) -> dict[str, float]:
    lines = [line for line in http.get("/metrics").text.splitlines() if line[0] != "#"]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_metrics_count_requests_and_tokens(http: httpx.Client) -> None:
    _chat(http)
    before = _samples(http)
    _chat(http)
    http.get("/no/such/path")
    after = _samples(http)
    labels = '{path="/v1/chat/completions",status="200"}'
    grown = {
        "autoglm_generated_tokens_total": len(ANSWER.encode()) + 1,
        "api_request_duration_seconds_count" + labels: 1,
        "autoglm_ttft_seconds_count": 1,
        "autoglm_tpot_seconds_count": 1,
    }
    assert {name: after[name] - before[name] for name in grown} == grown
    assert 'api_request_duration_seconds_count{path="other",status="404"}' in after


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"temprature": 1}, "temprature"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 1000}, "n"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0]"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": "refuse me"}]}, "messages"),
        ({"stop": [""]}, "stop[0]"),
        ({"logit_bias": {"999": 1}}, "logit_bias"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"stream": "yes"}, "stream"),
        ({"seed": -1}, "seed"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    harness: Harness, http: httpx.Client, fields: dict[str, object], param: str
) -> None:
    response = _chat(http, **fields)
    error = _error(response)
    assert response.status_code == 400
    assert error["type"] == "invalid_request_error"
    assert str(error["param"]).startswith(param)
    assert harness.core.submitted == []


def test_a_misspelt_field_is_answered_with_the_right_one(http: httpx.Client) -> None:
    assert "Did you mean temperature?" in str(_error(_chat(http, temprature=1))["message"])


def test_null_and_idle_values_count_as_left_out(http: httpx.Client) -> None:
    idle = {"tools": None, "response_format": {"type": "text"}, "stop": None, "store": False}
    assert _chat(http, **idle).is_success


def test_suffix_and_best_of_are_refused_by_name(http: httpx.Client) -> None:
    for name, value in (("suffix", "end"), ("best_of", 2)):
        response = http.post("/v1/completions", json={"prompt": "x", name: value})
        assert (response.status_code, _error(response)["param"]) == (400, name)


def test_an_over_long_prompt_is_refused_with_both_numbers(http: httpx.Client) -> None:
    response = http.post("/v1/completions", json={"prompt": "x" * 300})
    error = _error(response)
    assert (response.status_code, error["code"]) == (400, "context_length_exceeded")
    assert "300" in str(error["message"])
    assert "256" in str(error["message"])


def test_an_answer_that_cannot_fit_is_refused_with_the_room_there_is(http: httpx.Client) -> None:
    response = http.post("/v1/completions", json={"prompt": "x" * 200, "max_tokens": 100})
    error = _error(response)
    assert (response.status_code, error["param"]) == (400, "max_tokens")
    assert "at most 56" in str(error["message"])


def test_a_token_id_that_is_none_is_refused(http: httpx.Client) -> None:
    error = _error(http.post("/v1/completions", json={"prompt": [1, 100_000]}))
    assert "100000" in str(error["message"])


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'{"a": NaN}', b'"\\ud800"', b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(http: httpx.Client, body: bytes) -> None:
    response = http.post("/v1/chat/completions", content=body)
    assert response.status_code == 400
    _error(response)


def test_a_body_above_the_limit_is_refused(http: httpx.Client) -> None:
    response = http.post("/v1/chat/completions", content=b" " * (16 * 2**20 + 1))
    assert response.status_code == 413
    assert "16777217" in str(_error(response)["message"])


def test_unknown_paths_methods_and_models_have_openai_errors(http: httpx.Client) -> None:
    assert http.get("/v1/nothing").status_code == 404
    _error(http.get("/v1/nothing"))
    wrong_method = http.get("/v1/chat/completions")
    assert (wrong_method.status_code, wrong_method.headers["allow"]) == (405, "POST")
    _error(wrong_method)
    unknown = _chat(http, model="gpt-9")
    assert (unknown.status_code, _error(unknown)["code"]) == (404, "model_not_found")


def test_the_official_client_sees_typed_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="gpt-9"):
        client.chat.completions.create(model="gpt-9", messages=USER)
    with pytest.raises(openai.BadRequestError, match="store"):
        client.chat.completions.create(model="tiny", messages=USER, store=True)


# --- keys and ids ---------------------------------------------------------------------------------


def test_every_route_but_health_asks_for_a_key(tmp_path: Path, vocabulary: Vocabulary) -> None:
    with Harness(tmp_path / "tiny", vocabulary, keys=("k-1", "k-2")) as harness:
        harness.make_ready()
        with httpx.Client(base_url=harness.url, trust_env=False) as http:
            assert http.get("/health").status_code == 200
            for path in ("/metrics", "/v1/models", "/nothing"):
                assert http.get(path).status_code == 401
                assert http.get(path, headers={"authorization": "Bearer k"}).status_code == 401
            _error(http.get("/v1/models"))
        with openai_client(harness, "k-2") as client:
            assert client.chat.completions.create(model="tiny", messages=USER).choices
        with openai_client(harness, "wrong") as client, pytest.raises(openai.AuthenticationError):
            client.models.list()


def test_an_answer_carries_the_clients_request_id_or_a_new_one(http: httpx.Client) -> None:
    assert (
        http.get("/health", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    )
    made = http.get("/health", headers={"x-request-id": "a b"}).headers["x-request-id"]
    assert len(made) == 32
    assert "x-request-id" in http.get("/nothing").headers


# --- health and failure ---------------------------------------------------------------------------


def test_before_the_core_is_ready_health_tells_the_stage(
    tmp_path: Path, vocabulary: Vocabulary
) -> None:
    with (
        Harness(tmp_path / "tiny", vocabulary) as harness,
        httpx.Client(base_url=harness.url, trust_env=False) as http,
    ):
        response = http.get("/health")
        assert response.status_code == 503
        assert response.json() == {
            "status": "starting",
            "stage": "load",
            "progress": 0.4,
            "detail": "12 of 30 layers",
        }
        refused = _chat(http)
        assert (refused.status_code, _error(refused)["code"]) == (503, "engine_starting")
        harness.make_ready()
        assert http.get("/health").json()["status"] == "ok"


def test_health_tells_memory_and_counts(http: httpx.Client) -> None:
    _chat(http)
    body = http.get("/health").json()
    assert body["memory"] == {
        "weight_bytes": 1000,
        "kv_bytes": 2000,
        "kv_tokens": 1024,
        "peak_bytes": 4000,
    }
    assert body["generated_tokens"] == len(ANSWER.encode()) + 1
    assert body["model"] == "tiny"


def _checked(tmp_path: Path, vocabulary: Vocabulary, deadline_s: float) -> Harness:
    options = {"enable_health_check": True}
    return Harness(tmp_path / "tiny", vocabulary, options=options, health_deadline_s=deadline_s)


def test_the_health_check_computes_one_token_for_all_who_ask(
    tmp_path: Path, vocabulary: Vocabulary
) -> None:
    with _checked(tmp_path, vocabulary, 5.0) as harness:
        harness.make_ready()
        harness.core.script = Script(text="x", step_s=0.1)
        with httpx.Client(base_url=harness.url, trust_env=False) as http:
            codes: list[int] = []
            threads = [
                threading.Thread(target=lambda: codes.append(http.get("/health").status_code))
                for _ in range(5)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert codes == [200] * 5
            assert http.get("/health").status_code == 200
        assert len(harness.core.submitted) == 1
        assert harness.core.submitted[0].sampling.max_new_tokens == 1


def test_a_core_that_makes_no_token_is_stalled(tmp_path: Path, vocabulary: Vocabulary) -> None:
    with _checked(tmp_path, vocabulary, 0.1) as harness:
        harness.make_ready()
        harness.core.script = Script(is_mute=True)
        with httpx.Client(base_url=harness.url, trust_env=False) as http:
            response = http.get("/health")
            assert (response.status_code, response.json()["status"]) == (503, "stalled")
            harness.until(lambda: harness.core.aborted == ["health-check"])
            harness.core.script = Script()
            assert http.get("/health").json()["status"] == "ok"


def test_a_client_that_leaves_a_stream_frees_its_request(
    harness: Harness, http: httpx.Client
) -> None:
    harness.core.script = Script(text="x" * 200, step_s=0.02)
    body = {"messages": USER, "stream": True}
    with http.stream("POST", "/v1/chat/completions", json=body) as response:
        next(response.iter_lines())
    harness.until(lambda: harness.core.aborted == [harness.core.submitted[0].request_id])
    assert harness.link.num_open == 0


def test_a_client_that_leaves_before_the_answer_frees_its_request(
    harness: Harness, http: httpx.Client
) -> None:
    harness.core.script = Script(is_mute=True)
    with pytest.raises(httpx.ReadTimeout):
        http.post("/v1/chat/completions", json={"messages": USER, "n": 2}, timeout=0.3)
    harness.until(lambda: len(harness.core.aborted) == 2)
    assert harness.link.num_open == 0


def test_a_request_that_the_core_refuses_is_a_400_and_one_that_breaks_a_500(
    harness: Harness, http: httpx.Client
) -> None:
    for kind, status in (("request", 400), ("internal", 500)):
        harness.core.script = Script(fail=kind)
        for stream in (False, True):
            response = _chat(http, stream=stream)
            assert response.status_code == status
            assert _error(response)["message"] == f"scripted {kind}"


def test_when_the_core_dies_open_requests_get_an_error_and_health_says_dead(
    harness: Harness, http: httpx.Client
) -> None:
    harness.core.script = Script(text="x" * 100, hangs_after=2)
    with http.stream(
        "POST", "/v1/chat/completions", json={"messages": USER, "stream": True}
    ) as response:
        lines = response.iter_lines()
        next(lines)
        _kill(harness, harness.core)
        rest = [line for line in lines if line]
    assert "error" in json.loads(rest[-1].removeprefix("data: "))
    assert "[DONE]" not in rest[-1]
    health = http.get("/health")
    assert (health.status_code, health.json()["status"]) == (503, "dead")
    refused = _chat(http)
    assert (refused.status_code, _error(refused)["code"]) == (503, "engine_dead")


def test_the_official_client_raises_when_the_core_dies_in_a_stream(
    harness: Harness, client: openai.OpenAI
) -> None:
    harness.core.script = Script(text="x" * 100, hangs_after=2)
    stream = client.chat.completions.create(model="tiny", messages=USER, stream=True)
    next(iter(stream))
    _kill(harness, harness.core)
    with pytest.raises(openai.APIError, match="has ended"):
        list(stream)


def _kill(harness: Harness, core: FakeCore) -> None:
    harness.call(core.die)
    harness.until(harness.link.lost.is_set)
