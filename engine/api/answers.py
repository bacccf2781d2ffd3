"""How an answer is written: OpenAI's chat completion and text completion, whole or in chunks.

The unchanging head of a chunk is made once for each request, so a streamed token costs one
`json.dumps` of its text.
"""

from __future__ import annotations

import json
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from engine.api.chat import Vocabulary
from engine.api.deltas import Deltas, whole_message
from engine.api.generation import Piece, TokenLogprob
from engine.api.reader import AnswerReader

DONE = b"data: [DONE]\n\n"


def dumps(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def event(value: object) -> bytes:
    """One server-sent event."""
    return b"data: " + dumps(value) + b"\n\n"


class AnswerFormat(ABC):
    """Writes the pieces of one request. usage_in_stream: chunks carry a usage field."""

    id_prefix: str
    whole_object: str
    chunk_object: str

    def __init__(self, model: str, vocabulary: Vocabulary, *, usage_in_stream: bool) -> None:
        self.id = f"{self.id_prefix}-{uuid.uuid4().hex}"
        self.vocabulary = vocabulary
        self._usage_in_stream = usage_in_stream
        self._about = {"created": int(time.time()), "model": model}
        head = {"id": self.id, "object": self.chunk_object, **self._about}
        self._chunk_head = b"data: " + dumps(head)[:-1] + b',"choices":['
        self._chunk_tail = b'],"usage":null}\n\n' if usage_in_stream else b"]}\n\n"
        self._begun: set[int] = set()

    def chunk(self, piece: Piece) -> bytes:
        """The events for one piece; none for a piece without text and end."""
        chunks = b"".join(
            self._chunk_head + choice + self._chunk_tail for choice in self._chunk_choices(piece)
        )
        self._begun.add(piece.choice)
        return chunks

    def tell_usage(self, usage: dict[str, Any]) -> None:
        """Write this usage into the chunks that follow."""
        self._chunk_tail = b'],"usage":' + dumps(usage) + b"}\n\n"

    def last_chunk(self, usage: dict[str, Any]) -> bytes:
        """What ends the stream: the usage, if it was asked for, and the end mark."""
        if not self._usage_in_stream:
            return DONE
        head = {"id": self.id, "object": self.chunk_object, **self._about}
        return event({**head, "choices": [], "usage": usage}) + DONE

    def whole(self, pieces: list[list[Piece]], usage: dict[str, Any]) -> dict[str, Any]:
        """The answer in one body. pieces: those of each choice, in order."""
        choices = [self._whole_choice(index, parts) for index, parts in enumerate(pieces)]
        head = {"id": self.id, "object": self.whole_object, **self._about}
        return {**head, "choices": choices, "usage": usage}

    @abstractmethod
    def _chunk_choices(self, piece: Piece) -> list[bytes]: ...

    @abstractmethod
    def _whole_choice(self, index: int, pieces: list[Piece]) -> dict[str, Any]: ...


class ChatFormat(AnswerFormat):
    id_prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(
        self,
        model: str,
        vocabulary: Vocabulary,
        *,
        usage_in_stream: bool,
        make_reader: Callable[[], AnswerReader] | None = None,
    ) -> None:
        """make_reader: where an answer's text is more than content, takes one apart."""
        super().__init__(model, vocabulary, usage_in_stream=usage_in_stream)
        self._make_reader = make_reader
        self._deltas: dict[int, Deltas] = {}

    def _chunk_choices(self, piece: Piece) -> list[bytes]:
        index = b'{"index":%d,"delta":' % piece.choice
        choices: list[bytes] = []
        if piece.choice not in self._begun:
            delta = b'{"role":"assistant","content":""},"finish_reason":null}'
            choices.append(index + delta)
        reason = piece.finish_reason
        if self._make_reader:
            choices += self._read_choices(index, piece)
            reason = self._deltas_of(piece.choice).reason(reason)
        elif piece.text or piece.logprobs:
            choices.append(index + b'{"content":' + dumps(piece.text) + b"}" + self._rest(piece))
        if reason:
            choices.append(index + b'{},"finish_reason":"%b"}' % reason.encode())
        return choices

    def _read_choices(self, index: bytes, piece: Piece) -> list[bytes]:
        """A chunk for each part; the log probabilities come with the first."""
        deltas = self._deltas_of(piece.choice).push(piece)
        if not deltas and piece.logprobs:
            deltas = [{"content": ""}]
        rests = [self._rest(piece), *[b',"finish_reason":null}'] * len(deltas)]
        return [index + dumps(d) + rest for d, rest in zip(deltas, rests, strict=False)]

    def _deltas_of(self, choice: int) -> Deltas:
        if choice not in self._deltas:
            assert self._make_reader
            self._deltas[choice] = Deltas(self._make_reader())
        return self._deltas[choice]

    def _rest(self, piece: Piece) -> bytes:
        if piece.logprobs is None:
            return b',"finish_reason":null}'
        return b',"logprobs":' + dumps(self._logprobs(piece.logprobs)) + b',"finish_reason":null}'

    def _logprobs(self, logprobs: list[TokenLogprob]) -> dict[str, Any]:
        return {
            "content": [
                {
                    **self._token(entry.token_id, entry.logprob),
                    "top_logprobs": [self._token(i, logprob) for i, logprob in entry.likeliest],
                }
                for entry in logprobs
            ],
            "refusal": None,
        }

    def _token(self, token_id: int, logprob: float | None) -> dict[str, Any]:
        text, raw = self.vocabulary.token_text(token_id)
        return {"token": text, "logprob": _finite(logprob), "bytes": raw}

    def _whole_choice(self, index: int, pieces: list[Piece]) -> dict[str, Any]:
        logprobs = _all_logprobs(pieces)
        message, reason = self._message(index, pieces)
        return {
            "index": index,
            "message": {"role": "assistant", "refusal": None, **message},
            "logprobs": None if logprobs is None else self._logprobs(logprobs),
            "finish_reason": reason,
        }

    def _message(self, index: int, pieces: list[Piece]) -> tuple[dict[str, Any], str | None]:
        """What the message says, and why it ended."""
        if self._make_reader is None:
            return {"content": "".join(p.text for p in pieces)}, pieces[-1].finish_reason
        deltas = self._deltas_of(index)
        message = whole_message([delta for piece in pieces for delta in deltas.push(piece)])
        return message, deltas.reason(pieces[-1].finish_reason)


class CompletionFormat(AnswerFormat):
    id_prefix = "cmpl"
    whole_object = "text_completion"
    chunk_object = "text_completion"

    def __init__(self, model: str, vocabulary: Vocabulary, *, usage_in_stream: bool) -> None:
        super().__init__(model, vocabulary, usage_in_stream=usage_in_stream)
        self._offsets: dict[int, int] = {}

    def _chunk_choices(self, piece: Piece) -> list[bytes]:
        if not (piece.text or piece.logprobs or piece.finish_reason):
            return []
        return [dumps(self._choice(piece.choice, piece.text, piece.logprobs, piece.finish_reason))]

    def _whole_choice(self, index: int, pieces: list[Piece]) -> dict[str, Any]:
        text = "".join(piece.text for piece in pieces)
        return self._choice(index, text, _all_logprobs(pieces), pieces[-1].finish_reason)

    def _choice(
        self, index: int, text: str, logprobs: list[TokenLogprob] | None, reason: str | None
    ) -> dict[str, Any]:
        return {
            "index": index,
            "text": text,
            "logprobs": None if logprobs is None else self._logprobs(index, logprobs),
            "finish_reason": reason,
        }

    def _logprobs(self, index: int, logprobs: list[TokenLogprob]) -> dict[str, Any]:
        tokens = [self.vocabulary.token_text(entry.token_id)[0] for entry in logprobs]
        offsets: list[int] = []
        for token in tokens:
            offsets.append(self._offsets.get(index, 0))
            self._offsets[index] = offsets[-1] + len(token)
        return {
            "tokens": tokens,
            "token_logprobs": [_finite(entry.logprob) for entry in logprobs],
            "top_logprobs": [self._likeliest(entry) for entry in logprobs],
            "text_offset": offsets,
        }

    def _likeliest(self, entry: TokenLogprob) -> dict[str, float] | None:
        """The likeliest tokens and the chosen one. Of two with the same text, the likelier."""
        if entry.logprob is None:
            return None
        told: dict[str, float] = {}
        for token_id, logprob in (*entry.likeliest, (entry.token_id, entry.logprob)):
            told.setdefault(self.vocabulary.token_text(token_id)[0], max(logprob, _LEAST))
        return told


def _all_logprobs(pieces: list[Piece]) -> list[TokenLogprob] | None:
    if all(piece.logprobs is None for piece in pieces):
        return None
    return [entry for piece in pieces for entry in piece.logprobs or ()]


_LEAST = -9999.0
"""JSON knows no infinity: a token that cannot come has this, as in OpenAI's API."""


def _finite(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, _LEAST)
