"""Errors as clients see them: a status code and OpenAI's error object.

`ApiError` is raised where a request is answered; the exceptions of `engine.errors` are turned into
it by `from_engine`. The one place that catches them is `engine.api.app`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from engine.core.messages import Failed
from engine.errors import EngineError, EngineUnavailable, RequestError

INVALID_REQUEST = "invalid_request_error"
SERVER_ERROR = "server_error"


@dataclass
class ApiError(Exception):
    """An answer that is an error. `param` names the field at fault, `code` the kind of error."""

    status: int
    message: str
    type: str = INVALID_REQUEST
    param: str | None = None
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }


def from_engine(error: EngineError) -> ApiError:
    """The answer for one of the engine's own exceptions."""
    if isinstance(error, RequestError):
        return ApiError(400, str(error), param=error.param, code=error.code)
    if isinstance(error, EngineUnavailable):
        return ApiError(503, str(error), type=SERVER_ERROR, code="engine_unavailable")
    return ApiError(500, str(error), type=SERVER_ERROR)


def engine_unavailable(phase: str, detail: str) -> ApiError:
    """503 while the core is starting, stopping or dead."""
    return ApiError(
        503,
        f"The engine is {phase}: {detail}",
        type=SERVER_ERROR,
        code=f"engine_{phase}",
        headers={"retry-after": "2"},
    )


def request_failed(failed: Failed) -> ApiError:
    """The core gave one request up: its own fault (400), too many of them (429), too slow for its
    deadline (504) or the engine's fault (500)."""
    match failed.kind:
        case "request":
            return ApiError(400, failed.message)
        case "busy":
            headers = {"retry-after": str(failed.retry_after_s or 1)}
            kind, code = "rate_limit_error", "rate_limit_exceeded"
            return ApiError(429, failed.message, type=kind, code=code, headers=headers)
        case "timeout":
            return ApiError(504, failed.message, type="timeout_error", code="deadline_exceeded")
    return ApiError(500, failed.message, type=SERVER_ERROR, code="internal_error")
