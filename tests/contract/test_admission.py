"""What a client sees of a full line, of a deadline and of its own priority."""

from __future__ import annotations

import json

import httpx
import pytest

from engine.core.messages import Failed
from tests.contract.fake_core import Harness, Script

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
PATH = "/v1/chat/completions"


@pytest.mark.parametrize("stream", [False, True])
def test_a_full_line_is_a_429_that_says_when_to_come_back(
    harness: Harness, http: httpx.Client, stream: bool
) -> None:
    harness.core.script = Script(fail="busy")
    response = http.post(PATH, json={**BODY, "stream": stream})
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")
    assert response.json()["error"] == {
        "message": "scripted busy",
        "type": "rate_limit_error",
        "param": None,
        "code": "rate_limit_exceeded",
    }


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_expires_before_its_first_token_is_a_504(
    harness: Harness, http: httpx.Client, stream: bool
) -> None:
    harness.core.script = Script(fail="timeout")
    response = http.post(PATH, json={**BODY, "stream": stream})
    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")


def test_a_request_that_expires_in_its_stream_ends_with_an_error_event(
    harness: Harness, http: httpx.Client
) -> None:
    harness.core.script = Script(text="x" * 100, hangs_after=2)
    with http.stream("POST", PATH, json={**BODY, "stream": True}) as response:
        lines = response.iter_lines()
        next(lines)
        failed = Failed(harness.core.submitted[0].request_id, "timeout", "too slow")
        harness.call(harness.core.send, failed)
        rest = [line for line in lines if line]
    assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "deadline_exceeded"
    assert harness.link.num_open == 0


def test_priority_and_timeout_reach_the_core(harness: Harness, http: httpx.Client) -> None:
    http.post(PATH, json={**BODY, "priority": -3, "timeout": 2.5})
    http.post(PATH, json=BODY)
    wished = [(submit.priority, submit.timeout_s) for submit in harness.core.submitted]
    assert wished == [(-3, 2.5), (0, None)]


@pytest.mark.parametrize(
    "field", [{"priority": "high"}, {"priority": 1e6}, {"timeout": 0}, {"timeout": "1s"}]
)
def test_a_priority_or_timeout_that_is_none_is_refused_by_name(
    http: httpx.Client, field: dict[str, object]
) -> None:
    response = http.post(PATH, json={**BODY, **field})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == next(iter(field))
