"""One engine over HTTP: is it well, what does it serve, and its answers with their times.

Tokens are counted by the engine (`usage.completion_tokens`), never by chunks: one chunk may carry
several tokens, or only a part of a character. TTFT runs from sending the request to the first text;
TPOT is the time from there to the end of the answer, over the tokens after the first.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import httpx

from panel.errors import ServerError, ServerUnreachable

Message = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Health:
    """What /health said. `facts` is the whole answer: memory, load_s, device, … once it is ok.

    status: "starting", "ok", "stalled", "stopping" or "dead".
    """

    status: str
    stage: str | None = None
    progress: float | None = None
    detail: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_ok(self) -> bool:
        return self.status == "ok"


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one answer cost. tpot_s is None where the answer has a single token."""

    ttft_s: float
    tpot_s: float | None
    total_s: float
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str | None

    @property
    def tokens_per_s(self) -> float | None:
        return None if not self.tpot_s else 1 / self.tpot_s

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "tokens_per_s": self.tokens_per_s}


@dataclass(frozen=True)
class Answer:
    text: str
    figures: Figures


@dataclass(frozen=True)
class Delta:
    """A piece of a streamed answer; the last one has no text but the figures."""

    text: str
    figures: Figures | None = None


class EngineClient:
    """Speaks to one engine. Safe to share between threads; `close()` it or use it in `with`.

    model: the name to ask for; default: the one that the engine serves, asked once.
    timeout_s: how long the engine may be silent, which in a stream is the time between two chunks.
    transport: swaps the network in tests.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        model: str | None = None,
        timeout_s: float = 120.0,
        connect_timeout_s: float = 3.0,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._model = model
        self._clock = clock
        self._http = httpx.Client(
            base_url=self.base_url,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout_s, connect=connect_timeout_s),
            verify=self.base_url.startswith("https"),  # reading certificates takes 20 ms
            transport=transport,
            trust_env=False,  # an engine is near; a proxy of the environment is not for it
        )

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def health(self, *, timeout_s: float = 3.0) -> Health:
        """Ask /health. Raises ServerUnreachable where nothing answers in time."""
        with self._talking():
            response = self._http.get("/health", timeout=timeout_s)
        facts = _json_object(response)
        return Health(
            status=str(facts.get("status", "dead")),
            stage=facts.get("stage"),
            progress=facts.get("progress"),
            detail=str(facts.get("detail") or ""),
            facts=facts,
        )

    def models(self) -> list[str]:
        """The names that this engine serves."""
        with self._talking():
            response = self._http.get("/v1/models")
        _raise_for_status(response)
        return [model["id"] for model in _json_object(response).get("data", [])]

    def chat(self, messages: Sequence[Message], **sampling: Any) -> Answer:
        """The whole answer to a conversation. It is streamed, so that TTFT is a real one."""
        return _whole(self.stream(messages, **sampling))

    def complete(self, prompt: str, **sampling: Any) -> Answer:
        """Continue a text, without any chat template."""
        return _whole(self._stream("/v1/completions", {"prompt": prompt, **sampling}))

    def stream(self, messages: Sequence[Message], **sampling: Any) -> Iterator[Delta]:
        """Yield the answer as it comes; the last Delta carries the figures.

        sampling: fields of the request (temperature, max_tokens, seed, stop, …).
        Closing the iterator closes the connection, and with it the request in the engine.
        Raises ServerError where the engine refuses or breaks off, ServerUnreachable for silence.
        """
        return self._stream("/v1/chat/completions", {"messages": list(messages), **sampling})

    def _stream(self, path: str, body: dict[str, Any]) -> Iterator[Delta]:
        body.setdefault("model", self._model or self._served_model())
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        watch = _StopWatch(self._clock)
        with self._talking(), self._http.stream("POST", path, json=body) as response:
            if response.is_error:
                response.read()
            _raise_for_status(response)
            for event in _events(response):
                text = watch.read(event)
                if text:
                    yield Delta(text)
        yield Delta("", watch.figures())

    def _served_model(self) -> str:
        names = self.models()
        if not names:
            raise ServerError(f"{self.base_url} serves no model.", fix="Wait until it is ready.")
        self._model = names[0]
        return self._model

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """Turn what httpx raises into errors that say what happened."""
        try:
            yield
        except httpx.ConnectError as error:
            raise ServerUnreachable(
                f"Nothing listens at {self.base_url}.",
                fix="See `autoglm ls` whether the deployment is running.",
            ) from error
        except httpx.TimeoutException as error:
            raise ServerUnreachable(
                f"{self.base_url} did not answer in time ({type(error).__name__}).",
                fix="See the deployment's logs; a busy engine may need a longer timeout.",
            ) from error
        except httpx.RequestError as error:  # also an answer that cannot be decoded
            raise ServerUnreachable(
                f"The connection to {self.base_url} broke: {error}.",
                fix="See the deployment's logs for the reason.",
            ) from error


class _StopWatch:
    """Takes a stream's events and the times at which they came."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._sent_at = clock()
        self._first_at: float | None = None
        self._last_at = self._sent_at
        self._usage: Mapping[str, Any] = {}
        self._finish_reason: str | None = None

    def read(self, event: Mapping[str, Any]) -> str:
        """The text of one event. Raises ServerError where it is an error."""
        if "error" in event:
            error = event["error"]
            raise ServerError(str(error.get("message", error)), reason=error.get("code"))
        self._usage = event.get("usage") or self._usage
        choices = event.get("choices", [])
        text = "".join(map(self._piece, choices))
        is_end = any(choice.get("finish_reason") for choice in choices)
        if text or is_end:  # the last token may have no text of its own
            self._last_at = self._clock()
        if text and self._first_at is None:
            self._first_at = self._last_at
        return text

    def _piece(self, choice: Mapping[str, Any]) -> str:
        self._finish_reason = choice.get("finish_reason") or self._finish_reason
        return (choice.get("delta") or {}).get("content") or choice.get("text") or ""

    def figures(self) -> Figures:
        ended_at = self._clock()
        first_at = ended_at if self._first_at is None else self._first_at
        tokens = int(self._usage.get("completion_tokens", 0))
        decoding_s = self._last_at - first_at  # none where all the text came in one piece
        return Figures(
            ttft_s=first_at - self._sent_at,
            tpot_s=decoding_s / (tokens - 1) if tokens > 1 and decoding_s > 0 else None,
            total_s=ended_at - self._sent_at,
            prompt_tokens=int(self._usage.get("prompt_tokens", 0)),
            completion_tokens=tokens,
            finish_reason=self._finish_reason,
        )


def _events(response: httpx.Response) -> Iterator[Mapping[str, Any]]:
    """The JSON of each event up to [DONE]. Raises ServerError where that never comes."""
    for line in response.iter_lines():
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return
        yield json.loads(data)
    raise ServerError(
        "The engine closed the stream before the answer was complete.",
        fix="See the deployment's logs; it may have ended.",
    )


def _whole(deltas: Iterator[Delta]) -> Answer:
    texts: list[str] = []
    for delta in deltas:
        if delta.figures:
            return Answer("".join(texts), delta.figures)
        texts.append(delta.text)
    raise AssertionError("a stream without figures")


def _json_object(response: httpx.Response) -> dict[str, Any]:
    try:
        value = response.json()
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ServerError(
            f"{response.url} did not answer with a JSON object (HTTP {response.status_code}).",
            status=response.status_code,
            fix="Is another program listening on this port?",
        )
    return value


def _raise_for_status(response: httpx.Response) -> None:
    if not response.is_error:
        return
    error = _json_object(response).get("error") or {}
    message = error.get("message") or f"HTTP {response.status_code}"
    raise ServerError(message, status=response.status_code, reason=error.get("code"))
