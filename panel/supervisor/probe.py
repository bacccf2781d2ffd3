"""Asking an engine how it is, and for its first token."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from panel.client import EngineClient, Health
from panel.errors import ServerError
from panel.supervisor.causes import Cause, Exit

HEALTH_TIMEOUT_S = 1.5
"""Three of these, with the waits before and between them, stay below the ten seconds promised."""

FIRST_PROMPT = "Hello"


@dataclass(frozen=True, kw_only=True)
class Checks:
    """The answers of /health so far."""

    health: Health | None = None
    failed: int = 0
    failing_since: datetime | None = None
    checked_at: datetime | None = None

    def after(self, health: Health | None, now: datetime) -> Checks:
        """With one more answer; None stands for no answer."""
        if health is not None and health.is_ok:
            return Checks(health=health, checked_at=now)
        return Checks(
            health=health,
            failed=self.failed + 1,
            failing_since=self.failing_since or now,
            checked_at=now,
        )


def ask_health(endpoint: str, timeout_s: float = HEALTH_TIMEOUT_S) -> Health | None:
    """What /health says; None where nothing sensible answers in time."""
    with EngineClient(endpoint, connect_timeout_s=timeout_s) as client:
        try:
            return client.health(timeout_s=timeout_s)
        except ServerError:
            return None


@dataclass(frozen=True)
class FirstToken:
    """How long the first real token took, over HTTP, in seconds."""

    ttft_s: float


class FirstTokenError(Exception):
    """The engine says it is well and gives no token. `exit` says why."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause.message)
        self.exit = Exit(code=None, cause=cause, is_permanent=False)


def first_token(endpoint: str, api_key: str | None, timeout_s: float) -> FirstToken:
    """Let the engine compute one real token. Raises FirstTokenError."""
    with EngineClient(endpoint, api_key, timeout_s=timeout_s) as client:
        try:
            answer = client.complete(FIRST_PROMPT, max_tokens=1, temperature=0)
        except ServerError as error:
            raise FirstTokenError(
                Cause(code="no_first_token", message=error.message, fix=error.fix)
            ) from error
    if answer.figures.completion_tokens < 1:
        raise FirstTokenError(
            Cause(code="no_first_token", message="The engine answered without any token.")
        )
    return FirstToken(answer.figures.total_s)
