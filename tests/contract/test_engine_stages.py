"""Where a request's time went: in /metrics for all, in the answer for a client that asks."""

from __future__ import annotations

import re

import httpx

USER = [{"role": "user", "content": "Hi"}]
STAGES = ["tokenize", "queue", "prefill", "decode", "detokenize", "network"]
ASKED = {"x-timing": "1"}


def _durations_ms(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"(\w+);dur=([\d.]+)", text)}


def test_a_whole_answer_tells_its_stages_in_a_header(http: httpx.Client) -> None:
    response = http.post("/v1/chat/completions", json={"messages": USER}, headers=ASKED)
    durations = _durations_ms(response.headers["server-timing"])
    assert list(durations) == STAGES
    assert (durations["queue"], durations["prefill"]) == (250, 500)  # as the scripted core says
    assert durations["tokenize"] > 0
    assert "server-timing" not in http.post("/v1/completions", json={"prompt": "x"}).headers


def test_a_stream_tells_its_stages_before_its_end_mark(http: httpx.Client) -> None:
    body = {"messages": USER, "stream": True}
    lines = http.post("/v1/chat/completions", json=body, headers=ASKED).text.splitlines()
    *_, timing, _, done, _ = lines
    assert done == "data: [DONE]"
    assert timing.startswith(": server-timing ")
    assert list(_durations_ms(timing)) == STAGES
    assert "server-timing" not in http.post("/v1/chat/completions", json=body).text


def test_metrics_count_every_stage_once_a_request(http: httpx.Client) -> None:
    def counts() -> dict[str, float]:
        found = re.findall(r'stage_seconds_count\{stage="(\w+)"\} ([\d.]+)', _metrics(http))
        return {name: float(value) for name, value in found}

    http.post("/v1/completions", json={"prompt": "x"})
    before = counts()
    http.post("/v1/completions", json={"prompt": "x"})
    assert counts() == {name: before[name] + 1 for name in STAGES}


def test_metrics_tell_open_requests_and_tasks(http: httpx.Client) -> None:
    http.post("/v1/completions", json={"prompt": "x"})
    text = _metrics(http)
    assert "autoglm_api_open_requests 0.0" in text
    assert re.search(r"autoglm_api_tasks \d+", text)


def _metrics(http: httpx.Client) -> str:
    return http.get("/metrics").text
