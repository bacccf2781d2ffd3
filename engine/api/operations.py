"""Every route once: the application and its OpenAPI document are both made from this table."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel

from engine.api import shapes
from engine.api.protocol import (
    Body,
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingsRequest,
    TokenizeRequest,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path. handler: the method of `app.Routes` that answers.

    answer: the shape of its 200; None is plain text. chunk: the shape of its events, if it streams.
    failure: the shape of its 503, where that is not the usual error. is_open: asks for no key.
    """

    method: str
    path: str
    handler: str
    summary: str
    body: type[Body] | None = None
    answer: type[BaseModel] | None = None
    chunk: type[BaseModel] | None = None
    failure: type[BaseModel] = shapes.ErrorAnswer
    is_open: bool = False


OPERATIONS = (
    Operation(
        method="POST",
        path="/v1/chat/completions",
        handler="chat",
        summary="Answer a conversation",
        body=ChatRequest,
        answer=shapes.ChatCompletion,
        chunk=shapes.ChatCompletionChunk,
    ),
    Operation(
        method="POST",
        path="/v1/completions",
        handler="completions",
        summary="Continue texts or token ids; with echo and logprobs, score them",
        body=CompletionRequest,
        answer=shapes.TextCompletion,
        chunk=shapes.TextCompletion,
    ),
    Operation(
        method="POST",
        path="/v1/embeddings",
        handler="embeddings",
        summary="Unit vectors of texts, from a model made for it or with --task embed",
        body=EmbeddingsRequest,
        answer=shapes.Embeddings,
    ),
    Operation(
        method="POST",
        path="/tokenize",
        handler="tokenize",
        summary="The token ids of a text, or of a conversation in the model's template",
        body=TokenizeRequest,
        answer=shapes.Tokens,
    ),
    Operation(
        method="POST",
        path="/detokenize",
        handler="detokenize",
        summary="The text of token ids, special ones too",
        body=DetokenizeRequest,
        answer=shapes.Detokenized,
    ),
    Operation(
        method="GET",
        path="/v1/models",
        handler="models",
        summary="The model that is served",
        answer=shapes.Models,
    ),
    Operation(
        method="GET",
        path="/v1/models/{name:path}",
        handler="model",
        summary="The model, by its name",
        answer=shapes.Model,
    ),
    Operation(
        method="GET",
        path="/health",
        handler="health",
        summary="Whether tokens advance, what is loaded, how far a start is",
        answer=shapes.Healthy,
        failure=shapes.NotHealthy,
        is_open=True,
    ),
    Operation(method="GET", path="/metrics", handler="metrics", summary="Figures for Prometheus"),
    Operation(method="GET", path="/openapi.json", handler="openapi", summary="This document"),
)
