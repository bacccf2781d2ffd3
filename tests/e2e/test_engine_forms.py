"""The real engine with the demo model: JSON, tools and their calls through the official client."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from jsonschema import Draft202012Validator

from tests.e2e.running import ROOT
from tests.e2e.world import free_port, wait_for

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 10},
        "capital": {"type": "boolean"},
        "sights": {"type": "array", "items": {"type": "string", "maxLength": 8}, "maxItems": 2},
        "size": {"enum": ["small", "large"]},
    },
    "required": ["city", "capital", "size"],
    "additionalProperties": False,
}
AS_SCHEMA: Any = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}}
PARIS: list[Any] = [{"role": "user", "content": "Describe Paris as JSON."}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 10},
                "unit": {"enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def client(demo_models: Path) -> Iterator[openai.OpenAI]:
    """An engine of its own with the demo model, and a client for it."""
    port = free_port()
    model = next(demo_models.glob("demo/**/config.json")).parent
    command = [sys.executable, "-m", "engine.launch", "--model-path", str(model)]
    command += ["--port", str(port), "--served-model-name", "demo", "--max-seq-length", "1024"]
    engine = subprocess.Popen(command, cwd=ROOT)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for("the engine", lambda: _is_ready(address))
        http = httpx.Client(trust_env=False, timeout=120)
        with openai.OpenAI(base_url=address + "/v1", api_key="none", http_client=http) as client:
            yield client
    finally:
        engine.terminate()
        assert engine.wait(30) == 0


def _is_ready(address: str) -> bool:
    try:
        return httpx.get(address + "/health", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def test_every_answer_fits_the_schema_that_was_asked_for(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="demo", messages=PARIS, response_format=AS_SCHEMA, n=2, seed=1, max_tokens=150
    )
    assert len(answer.choices) == 2
    for choice in answer.choices:
        assert choice.finish_reason == "stop"
        Draft202012Validator(SCHEMA).validate(json.loads(choice.message.content or ""))


def test_the_same_seed_gives_the_same_json_whole_and_streamed(client: openai.OpenAI) -> None:
    asked: Any = {"model": "demo", "messages": PARIS, "response_format": AS_SCHEMA, "seed": 5}
    whole = client.chat.completions.create(**asked, max_tokens=150)
    stream = client.chat.completions.create(**asked, max_tokens=150, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == whole.choices[0].message.content
    Draft202012Validator(SCHEMA).validate(json.loads(text))


def test_an_object_of_any_kind_is_cut_only_by_its_limit(client: openai.OpenAI) -> None:
    asked: Any = {"model": "demo", "messages": PARIS, "response_format": {"type": "json_object"}}
    choice = client.chat.completions.create(**asked, max_tokens=60, temperature=0).choices[0]
    text = choice.message.content or ""
    assert text.startswith("{")
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(text), dict)


def test_a_required_call_is_valid_and_its_result_is_answered(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
    asked = client.chat.completions.create(
        model="demo",
        messages=messages,
        tools=[WEATHER],
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=0,
        max_tokens=100,
    ).choices[0]
    assert asked.finish_reason == "tool_calls"
    ((call),) = asked.message.tool_calls or []
    assert call.type == "function"
    parameters = WEATHER["function"]["parameters"]
    Draft202012Validator(parameters).validate(json.loads(call.function.arguments))
    messages += [
        asked.message.model_dump(),
        {"role": "tool", "tool_call_id": call.id, "content": "sunny, 21 degrees"},
    ]
    answer = client.chat.completions.create(
        model="demo", messages=messages, tools=[WEATHER], temperature=0, max_tokens=30
    ).choices[0]
    assert answer.message.content or answer.message.tool_calls


def test_a_named_call_is_streamed(client: openai.OpenAI) -> None:
    chosen: Any = {"type": "function", "function": {"name": "get_weather"}}
    stream = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": "Weather in Rome?"}],
        tools=[WEATHER],
        tool_choice=chosen,
        stream=True,
        max_tokens=100,
        seed=3,
    )
    name, arguments, reason = "", "", None
    for chunk in stream:
        for call in chunk.choices[0].delta.tool_calls or []:
            assert call.function
            name += call.function.name or ""
            arguments += call.function.arguments or ""
        reason = chunk.choices[0].finish_reason or reason
    assert (name, reason) == ("get_weather", "tool_calls")
    assert json.loads(arguments)["unit"] in ("celsius", "fahrenheit")


def test_a_schema_that_cannot_be_enforced_is_refused_by_name(client: openai.OpenAI) -> None:
    schema = {"type": "array", "uniqueItems": True}
    asked: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with pytest.raises(openai.BadRequestError, match="uniqueItems"):
        client.chat.completions.create(model="demo", messages=PARIS, response_format=asked)
