"""What every request passes first: its id, its key, the clock, the log line, and its errors.

Raw ASGI, because the token path runs through it. An exception ends here as OpenAI's error object
(or, once a stream has begun, as the log line only: the stream has told the client itself).
"""

from __future__ import annotations

import logging
import time
import uuid
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from engine import logs
from engine.api.errors import SERVER_ERROR, ApiError, from_engine
from engine.api.generation import CLIENT_GONE, Receive
from engine.api.state import EngineState
from engine.api.stream import Send
from engine.errors import EngineError

logger = logging.getLogger("engine.http")

MAX_BODY_BYTES = 16 * 2**20
_MAX_ID_LENGTH = 128
_QUIET = ("/health", "/metrics")
"""Asked every second by machines; logged only as debug."""


class Gate:
    """Wraps the routes."""

    def __init__(self, app: ASGIApp, state: EngineState) -> None:
        self.app = app
        self._state = state

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"the engine does not speak {scope['type']}")
        headers = Headers(scope=scope)
        scope["app"] = self  # makes the router raise its refusals instead of writing plain text
        scope["request_id"] = _request_id(headers.get("x-request-id", ""))
        answer = _Sender(send, scope["request_id"])
        started = time.perf_counter()
        with logs.request(scope["request_id"]):
            try:
                if scope["path"] != "/health":
                    self._state.keys.check(headers.get("authorization", ""))
                await self.app(scope, receive, answer)
            except Exception as error:  # noqa: BLE001  the one place where HTTP answers for errors
                await self._answer_error(error, answer, scope, receive)
            self._finish(scope, answer.status, time.perf_counter() - started)

    async def _answer_error(
        self, error: Exception, answer: _Sender, scope: dict[str, Any], receive: Receive
    ) -> None:
        if scope["method"] == "OPTIONS" and (allowed := _allowed(error)):
            await Response(status_code=204, headers={"allow": allowed})(scope, receive, answer)
            return
        refusal = _as_api_error(error, scope)
        if refusal.status >= 500:
            is_known = isinstance(error, ApiError | EngineError)
            logger.error("%s", refusal.message if is_known else error, exc_info=not is_known)
        if answer.status:
            answer.status = refusal.status
            return
        if refusal.status == CLIENT_GONE:
            answer.status = CLIENT_GONE
            return
        response = JSONResponse(refusal.body(), refusal.status, headers=refusal.headers)
        await response(scope, receive, answer)

    def _finish(self, scope: dict[str, Any], status: int, duration_s: float) -> None:
        route = scope.get("route")
        path = route.path if route else "other"
        self._state.metrics.observe_request(path, status, duration_s)
        level = logging.DEBUG if scope["path"] in _QUIET else logging.INFO
        shown = ascii(scope["path"])[1:-1][:200]
        note = scope.get("note", "")
        logger.log(level, "%s %s %d %.3f s %s", scope["method"], shown, status, duration_s, note)


class _Sender:
    """Adds the request id to the answer's headers and remembers its status (0: none yet)."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id.encode()
        self.status = 0

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), (b"x-request-id", self._request_id)]
            message = {**message, "headers": headers}
        await self._send(message)


def _as_api_error(error: Exception, scope: dict[str, Any]) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, EngineError):
        return from_engine(error)
    if isinstance(error, HTTPException):
        return _as_refusal(error, scope)
    if isinstance(error, ClientDisconnect):
        return ApiError(CLIENT_GONE, "The client closed the connection.")
    return ApiError(500, "The engine made an error; its log tells more.", type=SERVER_ERROR)


def _allowed(error: Exception) -> str:
    """The methods of a path, as the router's refusal of another method lists them, else nothing."""
    if not isinstance(error, HTTPException) or error.status_code != 405:
        return ""
    methods = (error.headers or {}).get("Allow", "").split(", ")
    return ", ".join(sorted({*methods, "OPTIONS"}))


def _as_refusal(error: HTTPException, scope: dict[str, Any]) -> ApiError:
    """The router's own: no such path, wrong method."""
    messages = {
        404: f"There is no {scope['path']} here.",
        405: f"{scope['path']} does not take {scope['method']}.",
    }
    message = messages.get(error.status_code, error.detail)
    return ApiError(error.status_code, message, headers=dict(error.headers or {}))


def _request_id(given: str) -> str:
    """The client's own id where it can stand in a header and a log line, else a new one."""
    is_usable = 0 < len(given) <= _MAX_ID_LENGTH and all("!" <= char <= "~" for char in given)
    return given if is_usable else uuid.uuid4().hex


async def read_body(request: Request) -> bytes:
    """The whole body. Raises ApiError (413) above MAX_BODY_BYTES, without reading the rest."""
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > MAX_BODY_BYTES:
        raise _too_large(int(announced))
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise _too_large(len(body))
    return bytes(body)


def _too_large(size: int) -> ApiError:
    return ApiError(
        413,
        f"The body has {size} bytes or more; the limit is {MAX_BODY_BYTES}.",
        code="body_too_large",
    )
