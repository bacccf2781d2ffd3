"""The engine's exceptions: each says what happened, with numbers, and what to do about it.

EngineError
 ├─ ConfigError          an option is unknown, missing or out of range
 │   └─ PortInUse            somebody else listens there
 ├─ ModelError           the model's folder or files cannot be used
 │   ├─ UnsupportedModel     an architecture this engine does not run
 │   └─ ModelTooLarge        the weights do not fit the device
 ├─ RequestError         a client asked for something impossible (HTTP 400)
 │   └─ ContextLengthExceeded
 ├─ EngineBusy           too many requests wait already (HTTP 429)
 └─ EngineUnavailable    the core is starting, stopping or dead (HTTP 503)
"""

from __future__ import annotations


class EngineError(Exception):
    """Something a person can cause or cure. `fix` says what to do."""

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message} {self.fix}".strip()


class ConfigError(EngineError):
    pass


class PortInUse(ConfigError):
    pass


class ModelError(EngineError):
    pass


class UnsupportedModel(ModelError):
    pass


class ModelTooLarge(ModelError):
    pass


class RequestError(EngineError):
    """`param` names the field of the request, `code` is OpenAI's word for the kind of error."""

    def __init__(
        self, message: str, *, fix: str = "", param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message, fix=fix)
        self.param = param
        self.code = code


class ContextLengthExceeded(RequestError):
    pass


class EngineBusy(EngineError):
    def __init__(self, message: str, *, fix: str = "", retry_after_s: int) -> None:
        super().__init__(message, fix=fix)
        self.retry_after_s = retry_after_s


class EngineUnavailable(EngineError):
    pass
