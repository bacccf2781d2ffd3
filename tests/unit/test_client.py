"""The engine's client, with the network swapped for a function and the clock for a list."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import httpx
import pytest

from panel.client import EngineClient
from panel.errors import ServerError, ServerUnreachable

Answer = Callable[[httpx.Request], httpx.Response]


def client(answer: Answer, clock: Callable[[], float] = lambda: 0.0) -> EngineClient:
    return EngineClient(
        "http://engine:8080/", "sk-1", transport=httpx.MockTransport(answer), clock=clock
    )


def events(*values: object, done: bool = True) -> bytes:
    lines = [f"data: {json.dumps(value)}\n\n" for value in values]
    return "".join([*lines, "data: [DONE]\n\n" if done else ""]).encode()


def piece(text: str, finish_reason: str | None = None) -> dict[str, object]:
    return {"choices": [{"delta": {"content": text}, "finish_reason": finish_reason}]}


def usage(prompt: int, completion: int) -> dict[str, object]:
    return {
        "choices": [],
        "usage": {"prompt_tokens": prompt, "completion_tokens": completion},
    }


def streaming(body: bytes) -> Answer:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "tiny"}]})
        return httpx.Response(200, content=body)

    return answer


def ticking(*times: float) -> Callable[[], float]:
    left: Iterator[float] = iter(times)
    return lambda: next(left)


def test_tokens_are_counted_from_usage_not_from_chunks() -> None:
    """Two chunks carry nine tokens: TPOT is the time between them over eight."""
    body = events(piece("", None), piece("Hel"), piece("lo", "stop"), usage(5, 9))
    with client(streaming(body), ticking(10.0, 10.5, 12.1, 12.5)) as engine:
        answer = engine.chat([{"role": "user", "content": "hi"}])
    assert answer.text == "Hello"
    figures = answer.figures
    assert figures.ttft_s == pytest.approx(0.5)
    assert figures.tpot_s == pytest.approx(1.6 / 8)
    assert figures.total_s == pytest.approx(2.5)
    assert (figures.prompt_tokens, figures.completion_tokens) == (5, 9)
    assert figures.finish_reason == "stop"


def test_time_between_tokens_runs_to_the_end_where_the_last_tokens_have_no_text() -> None:
    body = events(piece("Hi"), piece("", "length"), usage(5, 9))
    with client(streaming(body), ticking(10.0, 10.5, 12.1, 12.5)) as engine:
        assert engine.chat([]).figures.tpot_s == pytest.approx(1.6 / 8)


def test_an_answer_whose_text_comes_in_one_piece_has_no_time_between_tokens() -> None:
    for body in (events(piece("Hi", "stop"), usage(5, 9)), events(piece("", "stop"), usage(5, 9))):
        with client(streaming(body)) as engine:
            assert engine.chat([]).figures.tpot_s is None


def test_an_answer_of_one_token_has_no_time_between_tokens() -> None:
    with client(streaming(events(piece("a"), usage(1, 1)))) as engine:
        assert engine.chat([]).figures.tpot_s is None


def test_the_request_asks_for_usage_and_carries_key_model_and_sampling() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return streaming(events(usage(1, 1)))(request)

    with client(answer) as engine:
        engine.chat([{"role": "user", "content": "hi"}], temperature=0.0)
        engine.chat([])
    assert [r.url.path for r in seen].count("/v1/models") == 1, "the model's name is asked once"
    body = json.loads(seen[1].content)
    assert body["model"] == "tiny"
    assert body["temperature"] == 0.0
    assert body["stream_options"] == {"include_usage": True}
    assert seen[1].headers["authorization"] == "Bearer sk-1"


def test_a_completion_is_read_like_a_chat() -> None:
    body = events({"choices": [{"text": "abc", "finish_reason": "length"}]}, usage(1, 3))
    with client(streaming(body)) as engine:
        assert engine.complete("x", max_tokens=3).text == "abc"


def test_a_refusal_keeps_the_engines_message_and_status() -> None:
    message = "This model's maximum context length is 64 tokens; you asked for 99."
    refusal = httpx.Response(400, json={"error": {"message": message, "code": "x"}})
    with client(lambda _: refusal) as engine, pytest.raises(ServerError, match=r"64.*99") as caught:
        list(engine.stream([], model="tiny"))
    assert caught.value.status == 400


def test_an_error_in_the_middle_of_a_stream_is_raised() -> None:
    body = events(piece("a"), {"error": {"message": "The engine core died."}})
    with client(streaming(body)) as engine, pytest.raises(ServerError, match="core died"):
        engine.chat([])


def test_a_stream_that_breaks_off_is_an_error_not_a_short_answer() -> None:
    with (
        client(streaming(events(piece("a"), done=False))) as engine,
        pytest.raises(ServerError, match="before the answer was complete"),
    ):
        engine.chat([])


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (httpx.ConnectError("refused"), "Nothing listens"),
        (httpx.ReadTimeout("slow"), "did not answer in time"),
        (httpx.ReadError("reset"), "broke"),
        (httpx.DecodingError("not gzip"), "broke"),
    ],
)
def test_silence_says_what_kind_of_silence(error: Exception, words: str) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        raise error

    with client(answer) as engine, pytest.raises(ServerUnreachable, match=words):
        engine.health()


def test_health_tells_the_stage_of_a_start() -> None:
    body = {"status": "starting", "stage": "load", "progress": 0.4, "detail": "12 of 30 layers"}
    with client(lambda _: httpx.Response(503, json=body)) as engine:
        health = engine.health()
    assert not health.is_ok
    assert (health.stage, health.progress, health.detail) == ("load", 0.4, "12 of 30 layers")


def test_another_program_on_the_port_is_named_as_such() -> None:
    page = httpx.Response(200, text="<html>It works</html>")
    with client(lambda _: page) as engine, pytest.raises(ServerError, match="JSON"):
        engine.health()
