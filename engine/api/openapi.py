"""/openapi.json: the table of operations and the pydantic models of bodies and answers, as OpenAPI.

What the models cannot say is added here: fields that may be null because null counts as left out,
and OpenAI's fields that are accepted only with the value that asks for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from engine.api.operations import OPERATIONS, Operation
from engine.api.protocol import IDLE_VALUES, Body, GenerationRequest
from engine.api.shapes import ErrorAnswer

OPENAPI_VERSION = "3.1.0"
API_VERSION = "1"

_REF = "#/components/schemas/"
_ERRORS = {
    400: "The request cannot be answered as it is; `param` names the field at fault",
    401: "The API key is missing or wrong",
    404: "No such model or path",
    413: "The body is too large",
    429: "Too many requests wait; `retry-after` says when to come again",
    500: "The engine made an error",
    503: "The engine is starting, stopping or dead",
    504: "The request's deadline passed",
}
_OF_BODIES = (400, 404, 413, 429, 504)
_HEADERS = {
    "x-request-id": {
        "description": "The client's own id if it sent one, else a new one; in every log line",
        "schema": {"type": "string"},
    }
}

Json = dict[str, Any]


@cache
def document() -> Json:
    """The whole document."""
    paths: Json = {}
    for operation in OPERATIONS:
        path = operation.path.replace("{name:path}", "{name}")
        paths.setdefault(path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": OPENAPI_VERSION,
        "info": {
            "title": "Open-AutoGLM Panel engine",
            "version": API_VERSION,
            "description": "An OpenAI-compatible API. Fields that are null count as left out; "
            "unknown fields are refused by name.",
        },
        "paths": paths,
        "components": {
            "schemas": _schemas(OPERATIONS),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}],
    }


def _operation(operation: Operation) -> Json:
    told: Json = {
        "operationId": operation.handler,
        "summary": operation.summary,
        "responses": _responses(operation),
    }
    if "{" in operation.path:
        schema = {"type": "string", "minLength": 1}
        told["parameters"] = [{"name": "name", "in": "path", "required": True, "schema": schema}]
    if operation.body:
        content = {"application/json": {"schema": _ref(operation.body)}}
        told["requestBody"] = {"required": True, "content": content}
    if operation.is_open:
        told["security"] = []
    return told


def _responses(operation: Operation) -> Json:
    if operation.answer:
        content: Json = {"application/json": {"schema": _ref(operation.answer)}}
    elif operation.handler == "metrics":
        content = {"text/plain": {"schema": {"type": "string"}}}
    else:
        content = {"application/json": {"schema": {"type": "object"}}}
    if operation.chunk:
        content["text/event-stream"] = {"schema": _events(operation.chunk)}
    told: Json = {"200": {"description": "The answer", "headers": _HEADERS, "content": content}}
    for status in _error_statuses(operation):
        shape = operation.failure if status == 503 else ErrorAnswer
        told[str(status)] = {
            "description": _ERRORS[status],
            "headers": _HEADERS,
            "content": {"application/json": {"schema": _ref(shape)}},
        }
    return told


def _events(chunk: type[BaseModel]) -> Json:
    """One event, as OpenAPI 3.2 describes them."""
    chunk_or_error: Json = {"anyOf": [_ref(chunk), _ref(ErrorAnswer)]}
    as_json = {"contentMediaType": "application/json", "contentSchema": chunk_or_error}
    end: Json = {"const": "[DONE]", "description": "The last event of a whole answer"}
    data = {"type": "string", "anyOf": [end, as_json]}
    return {"type": "object", "properties": {"data": data}, "required": ["data"]}


def _error_statuses(operation: Operation) -> list[int]:
    statuses = {500, 503}
    if not operation.is_open:
        statuses.add(401)
    if operation.body:
        statuses.update(_OF_BODIES)
    if "{" in operation.path:
        statuses.add(404)
    return sorted(statuses)


def _ref(model: type[BaseModel]) -> Json:
    return {"$ref": _REF + model.__name__}


def _schemas(operations: Iterable[Operation]) -> Json:
    bodies = {operation.body for operation in operations if operation.body}
    shown = [(model, "validation") for model in sorted(bodies, key=lambda m: m.__name__)]
    for operation in operations:
        answers = (operation.answer, operation.chunk, operation.failure)
        shown += [(m, "serialization") for m in answers if m and (m, "serialization") not in shown]
    _, found = models_json_schema(shown, ref_template=_REF + "{model}")  # type: ignore[arg-type]  # the modes are literals
    schemas: Json = found["$defs"]
    for body in bodies:
        _complete(schemas[body.__name__], body)
    return schemas


def _complete(schema: Json, body: type[Body]) -> None:
    """Add what `protocol.parse` does before the model sees the values."""
    required = schema.get("required", [])
    for name, value in schema["properties"].items():
        nullable = {"type": "null"} in value.get("anyOf", [])
        if name not in required and not nullable:
            default = {"default": value["default"]} if "default" in value else {}
            schema["properties"][name] = {"anyOf": [value, {"type": "null"}], **default}
    if not issubclass(body, GenerationRequest):
        return
    for name, values in IDLE_VALUES.items():
        if values and name not in schema["properties"]:
            schema["properties"][name] = {
                "enum": [*values, None],
                "description": "Accepted for OpenAI's clients; asks for nothing here",
            }
