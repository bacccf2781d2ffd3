"""The routes of `operations`, as one ASGI application.

    request ─► Gate (request id, key, time, log, errors) ─► Starlette's router ─► a handler

Handlers raise; `Gate` is the one place where an exception becomes an HTTP answer. The router
stands alone: Starlette's own middlewares would answer errors in another shape first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router

from engine.api import embedding
from engine.api.answers import AnswerFormat, ChatFormat, CompletionFormat
from engine.api.asked import asked_of
from engine.api.chat import Vocabulary
from engine.api.errors import ApiError
from engine.api.gate import Gate, read_body
from engine.api.generation import Generation, Piece, Receive, Work
from engine.api.health import Health
from engine.api.openapi import document
from engine.api.operations import OPERATIONS
from engine.api.protocol import (
    MAX_CHOICES,
    MAX_INPUTS,
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingsRequest,
    GenerationRequest,
    TokenizeRequest,
    parse,
)
from engine.api.sampling import room_after, room_for, sampling_params, timeout_s
from engine.api.stages import WANTED_BY, Stages
from engine.api.state import EngineState
from engine.api.stream import Send, send_stream
from engine.api.tokenizing import chat_ids, check_ids, prompt_ids, text_ids
from engine.core.messages import SamplingParams
from engine.metrics import CONTENT_TYPE


def build_app(state: EngineState, health: Health | None = None) -> Gate:
    """The application for one engine."""
    routes = Routes(state, health or Health(state))
    table = [
        Route(operation.path, getattr(routes, operation.handler), methods=[operation.method])
        for operation in OPERATIONS
    ]
    return Gate(Router(table, redirect_slashes=False), state)


_PROMPT_END_TOKENS = 12
"""Enough to see whether the prompt opens or closes thoughts."""


class Routes:
    """One method a route: the handlers that `operations` names."""

    def __init__(self, state: EngineState, health: Health) -> None:
        self._state = state
        self._health = health

    async def health(self, request: Request) -> Response:
        status, body = await self._health.report()
        return JSONResponse(body, status)

    async def metrics(self, request: Request) -> Response:
        return Response(self._state.metrics.render(), media_type=CONTENT_TYPE)

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(document())

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model_card()]})

    async def model(self, request: Request) -> Response:
        self._check_model(request.path_params["name"])
        return JSONResponse(self._model_card())

    async def tokenize(self, request: Request) -> Response:
        body = parse(TokenizeRequest, await read_body(request))
        self._check_model(body.model)
        vocabulary = self._state.require_vocabulary()
        if (body.prompt is None) == (body.messages is None):
            raise ApiError(400, "Send either prompt or messages.", param="prompt")
        if body.messages is not None:
            messages = [message.as_template_value() for message in body.messages]
            ids = await chat_ids(vocabulary, messages, {})
        else:
            ids = await text_ids(vocabulary, body.prompt or "")
        limit = self._state.max_seq_length
        return JSONResponse({"tokens": ids, "count": len(ids), "max_model_len": limit})

    async def detokenize(self, request: Request) -> Response:
        body = parse(DetokenizeRequest, await read_body(request))
        self._check_model(body.model)
        vocabulary = self._state.require_vocabulary()
        check_ids(vocabulary, body.tokens, param="tokens")
        return JSONResponse({"prompt": vocabulary.text_of(body.tokens)})

    async def chat(self, request: Request) -> Any:
        stages = Stages()
        body = parse(ChatRequest, await _timed_body(request, stages))
        self._check_model(body.model)
        vocabulary = self._require_generating()
        asked = asked_of(body, self._state.dialect)
        with stages.tokenizing():
            messages, tools = asked.messages(body)
            ids = await chat_ids(vocabulary, messages, body.chat_template_kwargs, tools)
            prompt_end = vocabulary.text_of(ids[-_PROMPT_END_TOKENS:])
        make_reader = asked.reader(prompt_end)
        kind = partial(ChatFormat, make_reader=make_reader)
        kept = asked.dialect.vocabulary if make_reader else vocabulary
        grammar = await asyncio.to_thread(asked.grammar, prompt_end) if asked.is_bound else None
        return self._answer(body, kind, [ids], kept, request, stages, grammar=grammar)

    async def completions(self, request: Request) -> Any:
        stages = Stages()
        body = parse(CompletionRequest, await _timed_body(request, stages))
        self._check_model(body.model)
        vocabulary = self._require_generating()
        if len(body.prompts) * body.n > MAX_CHOICES:
            raise ApiError(
                400,
                f"{len(body.prompts)} prompts times n = {body.n} is more than "
                f"{MAX_CHOICES} answers.",
                param="n",
            )
        with stages.tokenizing():
            prompts = [await prompt_ids(vocabulary, prompt) for prompt in body.prompts]
            echoes = [_echo(vocabulary, prompt) for prompt in body.prompts] if body.echo else None
        return self._answer(body, CompletionFormat, prompts, vocabulary, request, stages, echoes)

    async def embeddings(self, request: Request) -> Response:
        stages = Stages()
        body = parse(EmbeddingsRequest, await _timed_body(request, stages))
        self._check_model(body.model)
        vocabulary = self._state.require_vocabulary()
        pooling = self._state.pooling
        if pooling is None:
            raise _wrong_task("embeddings", "embed")
        if len(body.inputs) > MAX_INPUTS:
            raise ApiError(400, f"More than {MAX_INPUTS} inputs.", param="input")
        with stages.tokenizing():
            prompts = [await prompt_ids(vocabulary, text, param="input") for text in body.inputs]
        for ids in prompts:
            room_after(len(ids), max_seq_length=self._state.max_seq_length, param="input")
        params = SamplingParams(max_new_tokens=1, temperature=0.0, pooling=pooling)
        works = [Work(ids, params, wants_answer=False) for ids in prompts]
        link, request_id = self._state.link, request.scope["request_id"]
        generation = Generation(
            link,
            vocabulary,
            works,
            (),
            request_id,
            stages=stages,
            timeout_s=self._state.config.request_timeout_s,
        )
        async with generation.while_wanted(request.receive):
            while generation.is_open:
                await generation.next()
        self._state.metrics.observe_stages(stages.items())
        answer = embedding.answer(
            [embedding.vector(generation.prompt_parts(index)) for index in range(len(works))],
            encoding=body.encoding_format,
            model=self._state.config.model_name,
            num_tokens=sum(map(len, prompts)),
        )
        headers = _timing_headers(stages) if _tells_stages(request) else None
        return JSONResponse(answer, headers=headers)

    def _require_generating(self) -> Vocabulary:
        if self._state.config.task == "embed":
            raise _wrong_task("text", "generate")
        return self._state.require_vocabulary()

    def _answer(
        self,
        body: GenerationRequest,
        kind: Callable[..., AnswerFormat],
        prompts: list[list[int]],
        vocabulary: Vocabulary,
        request: Request,
        stages: Stages,
        echoes: list[str] | None = None,
        grammar: str | None = None,
    ) -> Answer:
        """Everything is checked before anything is submitted."""
        limit = self._state.max_seq_length
        works: list[Work] = []
        for ids, echo in zip(prompts, echoes or [None] * len(prompts), strict=True):
            room = room_for(body, num_prompt_tokens=len(ids), max_seq_length=limit)
            for choice in range(body.n):
                params = sampling_params(
                    body,
                    vocabulary,
                    max_new_tokens=max(1, room),
                    choice=choice,
                    grammar=grammar,
                )
                works.append(Work(ids, params, echo, wants_answer=room > 0))
        request_id = request.scope["request_id"]
        generation = Generation(
            self._state.link,
            vocabulary,
            works,
            body.stops,
            request_id,
            stages=stages,
            priority=body.priority,
            timeout_s=timeout_s(body, self._state.config.request_timeout_s),
        )
        model = self._state.config.model_name
        answer = kind(model, vocabulary, usage_in_stream=body.include_usage)
        return Answer(
            self._state,
            generation,
            answer,
            is_streamed=body.stream,
            tells_stages=_tells_stages(request),
            tells_usage=body.continuous_usage,
        )

    def _model_card(self) -> dict[str, Any]:
        return {
            "id": self._state.config.model_name,
            "object": "model",
            "created": int(self._state.created_at),
            "owned_by": "open-autoglm-panel",
            "max_model_len": self._state.max_seq_length,
        }

    def _check_model(self, name: str | None) -> None:
        served = self._state.config.model_name
        if name is not None and name != served:
            raise ApiError(
                404,
                f"The model {name!r} is not served here; {served!r} is.",
                param="model",
                code="model_not_found",
            )


async def _timed_body(request: Request, stages: Stages) -> bytes:
    started = time.perf_counter()
    body = await read_body(request)
    stages.network_s += time.perf_counter() - started
    return body


def _tells_stages(request: Request) -> bool:
    return request.headers.get(WANTED_BY) == "1"


def _timing_headers(stages: Stages) -> dict[str, str]:
    return {"server-timing": str(stages)}


def _wrong_task(what: str, task: str) -> ApiError:
    return ApiError(
        400,
        f"This engine does not serve {what}: start one with --task {task}.",
        code="unsupported_task",
    )


def _echo(vocabulary: Vocabulary, prompt: str | list[int]) -> str:
    return prompt if isinstance(prompt, str) else vocabulary.text_of(prompt)


class Answer:
    """An ASGI response that runs a generation, streamed or whole."""

    def __init__(
        self,
        state: EngineState,
        generation: Generation,
        answer: AnswerFormat,
        *,
        is_streamed: bool,
        tells_stages: bool,
        tells_usage: bool,
    ) -> None:
        self._tells_usage = tells_usage
        self._tells_stages = tells_stages
        self._state = state
        self._generation = generation
        self._answer = answer
        self._is_streamed = is_streamed

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        try:
            if self._is_streamed:
                await send_stream(
                    self._generation,
                    self._answer,
                    receive,
                    send,
                    tells_stages=self._tells_stages,
                    tells_usage=self._tells_usage,
                )
            else:
                await self._send_whole(scope, receive, send)
        finally:
            self._note_figures(scope)

    async def _send_whole(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        generation = self._generation
        pieces: list[list[Piece]] = [[] for _ in generation.works]
        async with generation.while_wanted(receive):
            while generation.is_open:
                for piece in await generation.next():
                    pieces[piece.choice].append(piece)
            body = self._answer.whole(pieces, generation.usage())
        headers = _timing_headers(generation.stages) if self._tells_stages else None
        started = time.perf_counter()
        await JSONResponse(body, headers=headers)(scope, receive, send)
        generation.stages.network_s += time.perf_counter() - started

    def _note_figures(self, scope: dict[str, Any]) -> None:
        """For the metrics and for the request's log line."""
        generation, num_tokens = self._generation, self._generation.num_completion_tokens
        tpot_s = generation.timing.tpot_s(num_tokens) if len(generation.works) == 1 else None
        ttft_s = generation.timing.ttft_s
        self._state.metrics.observe_generation(ttft_s, tpot_s)
        if ttft_s is not None:
            self._state.metrics.observe_stages(generation.stages.items())
        usage = generation.usage()
        note = f"prompt={usage['prompt_tokens']} completion={num_tokens}"
        scope["note"] = note if ttft_s is None else f"{note} ttft={ttft_s:.3f}"
