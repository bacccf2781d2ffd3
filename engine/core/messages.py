"""What the API process and an engine core say to each other, and how it looks on the socket.

A frame is a 4-byte big-endian length and a msgpack array `[tag, field, …]`. No pickle: whatever
arrives is only numbers, text and lists. The core sends one `Step` per engine step, however many
requests it holds. Standard library and msgpack only.

    API  →  core    Submit, Abort
    core →  API     Loading …, Ready, then Step …; Failed for one request; Fatal before it ends
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields
from typing import Any

import msgpack

MAX_FRAME_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How one request's tokens are chosen and when it ends.

    temperature 0 is greedy. top_k 0, top_p 1, min_p 0 and penalties of 0 (repetition: 1) are off.
    stop_token_ids end the request; the token itself is reported but is not part of the text.
    logprobs: how many of the likeliest tokens to report at each position; None reports nothing.
    prompt_logprobs: the same for the prompt's tokens.
    pooling: "mean" or "last": report the prompt's hidden states, summed up or the last one's.
    grammar: what the answer must follow, as engine/structured.py writes it.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    pooling: str | None = None
    grammar: str | None = None

    @property
    def reads_prompt(self) -> bool:
        """Whether something of every prompt position is reported, so none may be skipped."""
        return self.prompt_logprobs is not None or self.pooling is not None


@dataclass(frozen=True, slots=True)
class Submit:
    """priority: lower goes first. timeout_s: seconds from now, after which the request fails."""

    request_id: str
    prompt_ids: list[int]
    sampling: SamplingParams
    priority: int = 0
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Abort:
    """The client left or a stop string was found: free the request's blocks at the next step."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Loading:
    """One sign of progress before Ready. stage is "load" or "warm_up"; progress is 0 … 1."""

    stage: str
    progress: float
    detail: str


@dataclass(frozen=True, slots=True)
class Ready:
    """What the core found out while loading. Sizes in bytes, kv_tokens is the whole KV cache."""

    model_type: str
    device: str
    dtype: str
    attention: str
    weight_bytes: int
    kv_bytes: int
    kv_tokens: int
    block_size: int
    max_seq_length: int
    load_s: float
    warm_up_s: float
    peak_bytes: int
    num_layers: int = 0
    num_fast_layers: int = 0


@dataclass(frozen=True, slots=True)
class PromptPart:
    """What one step found out about the prompt from position `start` on.

    A part with start 0 makes earlier ones void: the request was preempted and is computed again.
    logprobs: entries like Output's, for the tokens at start + 1 and following.
    hidden: float32 bytes, the final hidden states' sum (pooling "mean") or the last one ("last").
    """

    start: int
    logprobs: list[Any] | None = None
    hidden: bytes | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """New tokens of one request in one step; none while a prompt that is reported is computed.

    finish_reason: None while it goes on, else "stop" or "length".
    logprobs: one entry a token, `[logprob of the token, [[id, logprob], …]]`, or None.
    cached_tokens: prompt tokens whose KV came from the prefix cache (told with the first token).
    times_s: with the first token, seconds from the request's arrival to its first step, and from
    there to this token.
    prompt: what `reads_prompt` asked for, in the order of the steps.
    """

    request_id: str
    token_ids: list[int]
    finish_reason: str | None = None
    logprobs: list[Any] | None = None
    cached_tokens: int = 0
    times_s: list[float] | None = None
    prompt: list[PromptPart] | None = None


@dataclass(frozen=True, slots=True)
class Stats:
    """The core's gauges and counters (counters since its start) after a step."""

    running: int
    waiting: int
    blocks_used: int
    blocks_total: int
    steps: int
    prompt_tokens: int
    generated_tokens: int
    cached_tokens: int
    preemptions: int
    refused: int = 0
    expired: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    outputs: list[Output]
    stats: Stats


@dataclass(frozen=True, slots=True)
class Failed:
    """One request ended with an error; the others go on.

    kind: "request" (400), "busy" (429), "timeout" (504) or "internal" (500).
    retry_after_s: when a busy engine had better be asked again.
    """

    request_id: str
    kind: str
    message: str
    retry_after_s: int | None = None


@dataclass(frozen=True, slots=True)
class Fatal:
    """The core cannot start or go on, and ends. code is the exception's class name."""

    code: str
    message: str
    fix: str


Message = Submit | Abort | Loading | Ready | Step | Failed | Fatal

_TYPES: tuple[type[Any], ...] = (Submit, Abort, Loading, Ready, Step, Failed, Fatal)
_TAGS = {kind: tag for tag, kind in enumerate(_TYPES)}
_NESTED: dict[tuple[type[Any], str], Any] = {
    (Submit, "sampling"): lambda v: SamplingParams(
        **dict(zip(_SAMPLING_FIELDS, _tuples(v), strict=True))
    ),
    (Step, "outputs"): lambda v: [_output(o) for o in v],
    (Step, "stats"): lambda v: Stats(*v),
}
_SAMPLING_FIELDS = [f.name for f in fields(SamplingParams)]


def _tuples(values: list[Any]) -> list[Any]:
    """msgpack gives lists back where the dataclass has tuples."""
    return [
        tuple(tuple(i) if isinstance(i, list) else i for i in v) if isinstance(v, list) else v
        for v in values
    ]


def _output(values: list[Any]) -> Output:
    if values[-1] is not None:
        values[-1] = [PromptPart(*part) for part in values[-1]]
    return Output(*values)


_RECORDS = (*_TYPES, SamplingParams, Output, PromptPart, Stats)
_FIELD_NAMES = {kind: [f.name for f in fields(kind)] for kind in _RECORDS}


def _values(record: Any) -> list[Any]:
    """The fields in order. `astuple` copies deeply: 640 µs for a step of 64, this way 70."""
    return [getattr(record, name) for name in _FIELD_NAMES[type(record)]]


def encode(message: Message) -> bytes:
    """One message as a frame."""
    values = [_TAGS[type(message)], *_values(message)]
    body: Any = msgpack.packb(values, default=_values)
    return struct.pack(">I", len(body)) + body


class Decoder:
    """Turns received bytes into messages; keeps the unfinished rest between calls."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """All messages that are complete now. Raises ValueError above MAX_FRAME_BYTES."""
        self._buffer += data
        messages: list[Message] = []
        start = 0
        while len(self._buffer) - start >= 4:
            (length,) = struct.unpack_from(">I", self._buffer, start)
            if length > MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {length} bytes; the limit is {MAX_FRAME_BYTES}")
            if len(self._buffer) - start - 4 < length:
                break
            body = memoryview(self._buffer)[start + 4 : start + 4 + length]
            messages.append(_from_body(msgpack.unpackb(body)))
            body.release()
            start += 4 + length
        del self._buffer[:start]
        return messages


def _from_body(body: list[Any]) -> Message:
    kind = _TYPES[body[0]]
    names = [f.name for f in fields(kind)]
    values = dict(zip(names, body[1:], strict=True))
    for name in names:
        if (kind, name) in _NESTED:
            values[name] = _NESTED[kind, name](values[name])
    return kind(**values)
