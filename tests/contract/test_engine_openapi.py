"""The served OpenAPI document says what is so: every route, field and shape of an answer."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from pydantic import BaseModel
from starlette.routing import Route, Router

from engine.api import shapes
from engine.api.operations import OPERATIONS, Operation
from engine.api.protocol import IDLE_VALUES, GenerationRequest
from tests.contract.fake_core import Harness

USER = [{"role": "user", "content": "Hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": USER, "logprobs": True, "top_logprobs": 1},
    "/v1/completions": {"prompt": "x", "logprobs": 1, "echo": True},
    "/tokenize": {"prompt": "x"},
    "/detokenize": {"tokens": [72]},
}


@pytest.fixture
def document(http: httpx.Client) -> dict[str, Any]:
    return http.get("/openapi.json").json()


def test_every_route_of_the_application_is_described(
    harness: Harness, document: dict[str, Any]
) -> None:
    assert isinstance(harness.app.app, Router)
    served = {
        (route.path.replace(":path", ""), method.lower())
        for route in harness.app.app.routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    described = {(path, method) for path, value in document["paths"].items() for method in value}
    assert served == described


def test_every_field_of_every_body_is_described(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for operation in OPERATIONS:
        if operation.body:
            described = set(schemas[operation.body.__name__]["properties"])
            fields = set(operation.body.model_fields)
            if issubclass(operation.body, GenerationRequest):
                fields |= {name for name, values in IDLE_VALUES.items() if values}
            assert described == fields


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    names = set(document["components"]["schemas"])
    text = json.dumps(document)
    used = {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    assert used <= names


SHAPED = [o for o in OPERATIONS if o.answer and o.handler != "embeddings"]


@pytest.mark.parametrize("operation", SHAPED, ids=lambda operation: operation.handler)
def test_answers_have_the_shape_that_is_described(http: httpx.Client, operation: Operation) -> None:
    assert operation.answer
    path = operation.path.replace("{name:path}", "tiny")
    response = http.request(operation.method, path, json=BODIES.get(path))
    assert response.status_code == 200
    exactly(operation.answer, response.json())
    if operation.chunk:
        body = {**BODIES[path], "stream": True, "stream_options": {"include_usage": True}}
        events = http.post(path, json=body).text.split("\n\n")
        for event in events[:-2]:
            exactly(operation.chunk, json.loads(event.removeprefix("data: ")))


def test_errors_and_a_bad_health_have_the_shapes_that_are_described(http: httpx.Client) -> None:
    for response in (http.get("/nothing"), http.post("/v1/completions", json={"x": 1})):
        exactly(shapes.ErrorAnswer, response.json())


def test_options_lists_the_methods_of_a_path(http: httpx.Client) -> None:
    answer = http.options("/v1/completions")
    assert (answer.status_code, answer.headers["allow"]) == (204, "OPTIONS, POST")
    assert http.options("/health").headers["allow"] == "GET, HEAD, OPTIONS"
    assert http.options("/nothing").status_code == 404


def test_head_gives_the_headers_without_the_body(http: httpx.Client) -> None:
    for path in ("/health", "/v1/models", "/openapi.json"):
        answer = http.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["x-request-id"]


def exactly(shape: type[BaseModel], value: Any) -> None:
    """The value has the shape, and no field at any depth that the shape lacks."""
    assert shape.model_validate(value).model_dump(exclude_unset=True) == value
