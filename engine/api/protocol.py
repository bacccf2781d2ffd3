"""The bodies of OpenAI's API that this engine accepts, and refusal by name of everything else.

A field that is null counts as left out. A field that is known to OpenAI but does nothing here is
refused too, unless its value asks for nothing: a request never loses an option silently.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails, from_json

from engine.api.conversation import (
    Body,
    ChatMessage,
    ChosenTool,
    ResponseFormat,
    Tool,
)
from engine.api.errors import ApiError

MAX_CHOICES = 128
"""Most answers of one request: prompts times n."""
MAX_INPUTS = 2048
"""Most texts of one request for embeddings, as OpenAI's."""

StopString = Annotated[str, Field(min_length=1, max_length=1000)]
Stops = StopString | Annotated[list[StopString], Field(max_length=16)]
Logprobs = Annotated[int, Field(ge=0, le=20)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class StreamOptions(Body):
    """continuous_usage_stats: the usage so far in every event (vLLM's; guidellm asks for it)."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class GenerationRequest(Body):
    """What chat and completions have in common. None: left to the model or to the engine."""

    model: str | None = None
    n: int = Field(1, ge=1, le=16)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, lt=2**31)
    min_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    seed: int | None = Field(None, ge=0, lt=2**63)
    stop: Stops = Field([])
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] = Field({})
    ignore_eos: bool = False
    priority: int = Field(0, ge=-1000, le=1000)
    timeout: float | None = Field(None, gt=0, le=86_400)
    user: str | None = None

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        return self.include_usage and bool(
            self.stream_options and self.stream_options.continuous_usage_stats
        )

    @property
    def token_limit(self) -> int | None:
        return self.max_tokens

    @property
    def num_logprobs(self) -> int | None:
        """How many likely tokens to tell at each position; None: no log probabilities at all."""
        return None

    @property
    def num_prompt_logprobs(self) -> int | None:
        """The same for the prompt's own tokens."""
        return None


class ChatRequest(GenerationRequest):
    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31)
    logprobs: bool = False
    top_logprobs: Logprobs | None = None
    chat_template_kwargs: dict[str, Any] = Field({})
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = Field(None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = None

    @property
    def token_limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def num_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


Texts = (
    str
    | TokenIds
    | Annotated[list[str], Field(min_length=1)]
    | Annotated[list[TokenIds], Field(min_length=1)]
)
"""One or several, each as text or as token ids."""


def _each(texts: Any) -> list[str] | list[list[int]]:
    """One entry a text; the first entry of a list tells the kind of all."""
    each: Any = [texts] if isinstance(texts, str) or isinstance(texts[0], int) else texts
    return each


class CompletionRequest(GenerationRequest):
    """max_tokens 0 adds nothing to the prompt; with echo and logprobs, the prompt is scored."""

    prompt: Texts
    max_tokens: int | None = Field(None, ge=0, lt=2**31)
    logprobs: Logprobs | None = None
    echo: bool = False

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        return _each(self.prompt)

    @property
    def num_logprobs(self) -> int | None:
        return self.logprobs

    @property
    def num_prompt_logprobs(self) -> int | None:
        return self.logprobs if self.echo else None


class EmbeddingsRequest(Body):
    model: str | None = None
    input: Texts
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None

    @property
    def inputs(self) -> list[str] | list[list[int]]:
        return _each(self.input)


class TokenizeRequest(Body):
    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None


class DetokenizeRequest(Body):
    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0)]]


IDLE_VALUES: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "dimensions": (),
    "function_call": ("none",),
    "functions": ([],),
    "guided_json": (),
    "metadata": ({},),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "prompt_cache_key": (),
    "prompt_cache_retention": (),
    "reasoning_effort": ("none",),
    "safety_identifier": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "verbosity": (),
    "web_search_options": (),
}
"""OpenAI's fields that this engine does not have, with the values that ask for nothing."""

SomeBody = TypeVar("SomeBody", bound=Body)


def parse(kind: type[SomeBody], raw: bytes) -> SomeBody:
    """Read a request's body. Raises ApiError (400) that names the field at fault."""
    try:
        values = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise ApiError(400, f"The body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(values, dict):
        raise ApiError(400, "The body must be a JSON object.", code="invalid_type")
    asked = {name: v for name, v in values.items() if v is not None and not _is_idle(name, v)}
    try:
        return kind.model_validate(asked)
    except ValidationError as error:
        raise _refusal(kind, error.errors(include_url=False)) from None


def _is_idle(name: str, value: Any) -> bool:
    return any(value == idle and type(value) is type(idle) for idle in IDLE_VALUES.get(name, ()))


def _refusal(kind: type[Body], errors: list[ErrorDetails]) -> ApiError:
    """One answer: for an unknown field, which explains the others, else for the first field.

    Where a field may have several types, the deepest error is the one of the type that was meant.
    """
    of_first = [e for e in errors if e["loc"][:1] == errors[0]["loc"][:1]]
    deepest = max(of_first, key=lambda e: len(e["loc"]))
    first = next((e for e in errors if e["type"] == "extra_forbidden"), deepest)
    param = _param(first["loc"])
    if first["type"] == "extra_forbidden":
        return _refused_field(kind, param, top_level=len(first["loc"]) == 1)
    if first["type"] == "missing":
        return ApiError(400, f"{param} is missing.", param=param, code="missing_required_parameter")
    given = repr(first["input"])
    given = given if len(given) <= 60 else given[:59] + "…"
    message = f"{param} is {given}: {first['msg'][0].lower()}{first['msg'][1:]}."
    return ApiError(400, message, param=param, code="invalid_value")


def _refused_field(kind: type[Body], param: str, *, top_level: bool) -> ApiError:
    if not top_level or param in IDLE_VALUES:
        return ApiError(
            400,
            f"{param} is not supported by this engine.",
            param=param,
            code="unsupported_parameter",
        )
    near = get_close_matches(param, kind.model_fields, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return ApiError(400, f"Unknown field {param}.{hint}", param=param, code="unknown_parameter")


def _param(loc: tuple[int | str, ...]) -> str:
    """`('messages', 0, 'content', 'str')` as `messages[0].content`.

    pydantic adds the branch of a union it tried; those are no fields of the request.
    """
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.isidentifier() and part not in ("str", "int", "TextPart", "ChosenTool"):
            text += f".{part}" if text else part
    return text or "body"
