"""The bodies of this engine's answers, for its OpenAPI document; nothing is built from them.

Answers are written by hand where speed counts (`answers`, `stream`); `tests/contract/
test_engine_openapi.py` holds real answers against these, field by field.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel


class ErrorObject(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    error: ErrorObject


class PromptTokensDetails(BaseModel):
    cached_tokens: int


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class TokenChance(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class TokenChances(TokenChance):
    top_logprobs: list[TokenChance]


class ChatLogprobs(BaseModel):
    content: list[TokenChances]
    refusal: None


class CalledFunction(BaseModel):
    name: str
    arguments: str


class ToolCall(BaseModel):
    id: str
    type: Literal["function"]
    function: CalledFunction


class AnswerMessage(BaseModel):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None


FinishReason = Literal["stop", "length", "tool_calls"]


class ChatChoice(BaseModel):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class ToolCallDelta(BaseModel):
    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: dict[str, Any] | None = None


class Delta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChatChunkChoice(BaseModel):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None


class ChatCompletionChunk(BaseModel):
    """One event of a stream. The last one has no choice and, if it was asked for, the usage."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class TextLogprobs(BaseModel):
    """One entry a token in each list; null for a prompt's first token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(BaseModel):
    """finish_reason is null only in a stream, before the end."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason | None


class TextCompletion(BaseModel):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | None = None


class Embedding(BaseModel):
    """embedding: a unit vector, as numbers or as base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class Embeddings(BaseModel):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingsUsage


class Tokens(BaseModel):
    tokens: list[int]
    count: int
    max_model_len: int


class Detokenized(BaseModel):
    prompt: str


class Model(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int


class Models(BaseModel):
    object: Literal["list"]
    data: list[Model]


class HealthMemory(BaseModel):
    weight_bytes: int
    kv_bytes: int
    kv_tokens: int
    peak_bytes: int


class ReplicaHealth(BaseModel):
    status: str
    detail: str
    device: str | None
    restarts: int
    open: int
    running: int
    waiting: int
    generated_tokens: int


class Healthy(BaseModel):
    status: Literal["ok"]
    model: str
    uptime_s: float
    generated_tokens: int
    running: int
    waiting: int
    memory: HealthMemory
    load_s: float
    warm_up_s: float
    device: str
    dtype: str
    attention: str
    model_type: str
    max_seq_length: int
    replicas: list[ReplicaHealth]


class NotHealthy(BaseModel):
    """stage and progress only while it starts."""

    status: Literal["starting", "stalled", "stopping", "dead"]
    detail: str
    stage: str | None = None
    progress: float | None = None
