"""One HTTP request on its way through the core: its choices, their text so far, what they cost."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from engine.api.chat import Vocabulary
from engine.api.core_link import Mailbox
from engine.api.errors import ApiError
from engine.api.replicas import Replicas
from engine.api.stages import Stages
from engine.api.text import Detokenizer, StopStrings
from engine.core.messages import Output, PromptPart, SamplingParams, Submit

Receive = Callable[[], Awaitable[Any]]

CLIENT_GONE = 499
"""The status that the log shows for a client that left; nobody receives it."""

_serial = itertools.count()


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token of the answer with the likeliest ones at its place, as (token id, logprob).

    logprob: None for a prompt's first token, which nothing comes before.
    """

    token_id: int
    logprob: float | None
    likeliest: list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Piece:
    """What one choice gained: text (maybe none yet) and, with its last piece, why it ended."""

    choice: int
    text: str
    logprobs: list[TokenLogprob] | None
    finish_reason: str | None


@dataclass(frozen=True, slots=True)
class Work:
    """One choice as the core gets it.

    echo: a text that the answer begins with. wants_answer: False where only the prompt is of
    interest; the core makes one token all the same, which is dropped.
    """

    prompt_ids: list[int]
    sampling: SamplingParams
    echo: str | None = None
    wants_answer: bool = True


@dataclass(slots=True)
class _Choice:
    request_id: str
    work: Work
    detokenizer: Detokenizer
    stops: StopStrings
    num_tokens: int = 0
    is_open: bool = True
    prompt_parts: list[PromptPart] = field(default_factory=list)

    def receive(self, index: int, output: Output) -> Piece:
        """Turn new tokens into text; the first of them bring the echo of the prompt."""
        for part in output.prompt or ():
            if part.start == 0:
                self.prompt_parts.clear()
            self.prompt_parts.append(part)
        if not output.token_ids and not output.finish_reason:
            return Piece(index, "", None, None)
        echo = self.work.echo if self.num_tokens == 0 else None
        if self.work.wants_answer:
            piece = self._receive_tokens(index, output)
        else:
            self.is_open = False
            logprobs = None if output.logprobs is None else list[TokenLogprob]()
            piece = Piece(index, "", logprobs, "length")
        return piece if echo is None else self._with_echo(echo, piece)

    def _with_echo(self, echo: str, piece: Piece) -> Piece:
        if piece.logprobs is None:
            return replace(piece, text=echo + piece.text)
        ids = self.work.prompt_ids
        scored = [entry for part in self.prompt_parts for entry in part.logprobs or ()]
        told = [TokenLogprob(ids[0], None, []), *_entries(ids[1:], scored)]
        return replace(piece, text=echo + piece.text, logprobs=told + piece.logprobs)

    def _receive_tokens(self, index: int, output: Output) -> Piece:
        """Token by token where a stop string may cut between two."""
        ids, reason = output.token_ids, output.finish_reason
        num_text = len(ids) - (1 if reason == "stop" and ids else 0)
        step = 1 if self.stops.exist else max(1, num_text)
        text, used = "", 0
        while used < num_text and not self.stops.found:
            text += self.stops.push(self.detokenizer.push(ids[used : min(used + step, num_text)]))
            used = min(used + step, num_text)
        if self.stops.found:
            self.num_tokens += used
            reason = "stop"
        else:
            self.num_tokens += len(ids)
            text += self.stops.flush() if reason else ""
        self.is_open = reason is None
        return Piece(index, text, _logprobs(output, used), reason)


def _logprobs(output: Output, num_tokens: int) -> list[TokenLogprob] | None:
    if output.logprobs is None:
        return None
    return _entries(output.token_ids[:num_tokens], output.logprobs)


def _entries(token_ids: Sequence[int], logprobs: Sequence[Any]) -> list[TokenLogprob]:
    return [
        TokenLogprob(token_id, entry[0], [(i, logprob) for i, logprob in entry[1]])
        for token_id, entry in zip(token_ids, logprobs, strict=False)
    ]


@dataclass(slots=True)
class Timing:
    """Seconds on the clock given: when asked, when the first and the last text came."""

    asked_at: float
    first_at: float | None = None
    last_at: float | None = None

    @property
    def ttft_s(self) -> float | None:
        return None if self.first_at is None else self.first_at - self.asked_at

    def tpot_s(self, num_tokens: int) -> float | None:
        """Time per token after the first; None for answers of one token."""
        if self.first_at is None or self.last_at is None or num_tokens < 2:
            return None
        return (self.last_at - self.first_at) / (num_tokens - 1)


@dataclass
class Generation:
    """Submits every choice of a request and gives their pieces as they come.

    Raises ApiError from `submit` while the core is not ready, from `next` when it gives up.
    """

    link: Replicas
    vocabulary: Vocabulary
    works: Sequence[Work]
    stops: Sequence[str]
    request_id: str
    clock: Callable[[], float] = time.monotonic
    stages: Stages = field(default_factory=Stages)
    priority: int = 0
    timeout_s: float | None = None
    cached_tokens: int = 0
    timing: Timing = field(init=False)
    _mailbox: Mailbox = field(default_factory=Mailbox)
    _choices: list[_Choice] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.timing = Timing(self.clock())

    def submit(self) -> None:
        serial = next(_serial)
        for index, work in enumerate(self.works):
            core_id = f"{self.request_id}.{serial}.{index}"
            detokenizer = Detokenizer(self.vocabulary.decode, work.prompt_ids)
            submit = Submit(core_id, work.prompt_ids, work.sampling, self.priority, self.timeout_s)
            self.link.submit(submit, self._mailbox, index)
            stops = StopStrings(self.stops)
            self._choices.append(_Choice(core_id, work, detokenizer, stops))

    @property
    def is_open(self) -> bool:
        return any(choice.is_open for choice in self._choices)

    def prompt_parts(self, index: int) -> list[PromptPart]:
        """What the core told of a choice's prompt."""
        return self._choices[index].prompt_parts

    @property
    def num_completion_tokens(self) -> int:
        return sum(choice.num_tokens for choice in self._choices)

    async def next(self) -> list[Piece]:
        """The pieces of everything that arrived since the last call; waits for at least one."""
        outputs = await self._mailbox.take()
        now = self.clock()
        self.timing.first_at = self.timing.first_at or now
        self.timing.last_at = now
        pieces = [self._receive(index, output) for index, output in outputs.items()]
        self.stages.decode_s = now - self.timing.first_at
        self.stages.detokenize_s += self.clock() - now
        return pieces

    def _receive(self, index: int, output: Output) -> Piece:
        choice = self._choices[index]
        self.cached_tokens += output.cached_tokens
        self.stages.note_first_token(output.times_s)
        piece = choice.receive(index, output)
        if choice.stops.found:
            self.link.abort(choice.request_id)
        return piece

    def usage(self) -> dict[str, Any]:
        """OpenAI's usage object. A prompt that several choices share counts once."""
        prompts = {id(work.prompt_ids): len(work.prompt_ids) for work in self.works}
        prompt_tokens, completion_tokens = sum(prompts.values()), self.num_completion_tokens
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": min(self.cached_tokens, prompt_tokens)},
        }

    def abort(self) -> None:
        """Free in the core what has not ended."""
        for choice in self._choices:
            self.link.abort(choice.request_id)

    @asynccontextmanager
    async def while_wanted(self, receive: Receive) -> AsyncIterator[None]:
        """Inside the block, a client that leaves ends the generation with CLIENT_GONE.

        However the block ends, nothing of the request stays in the core.
        """
        watching = asyncio.create_task(self._watch(receive))
        try:
            self.submit()
            yield
        finally:
            watching.cancel()
            self.abort()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.abort()
        self._mailbox.fail(ApiError(CLIENT_GONE, "The client closed the connection."))
