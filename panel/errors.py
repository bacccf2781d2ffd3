"""The panel's exceptions: each says what happened, with numbers, and what to do about it.

PanelError
 ├─ SettingsError        a setting is unknown or out of range (like the engine's ConfigError)
 ├─ SourceError          a model source cannot be understood, found or fetched
 │   └─ SourceUnreachable    the hub does not answer, so nothing is known of the model
 ├─ ModelFolderError     a folder lacks config.json or weights, or they are damaged
 ├─ DoesNotFit           the sizing says no
 ├─ PortInUse            somebody else listens there
 ├─ NotFound             no such deployment, chat, …
 └─ ServerError          an engine refused or broke a request
     └─ ServerUnreachable    no answer at all
"""

from __future__ import annotations


class PanelError(Exception):
    """Something a person can cause or cure. `fix` says what to do; `code` is stable for --json."""

    code = "error"

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message} {self.fix}".strip()


class SettingsError(PanelError):
    code = "settings"


class SourceError(PanelError):
    code = "model_source"


class SourceUnreachable(SourceError):
    code = "source_unreachable"


class ModelFolderError(PanelError):
    code = "model_folder"


class DoesNotFit(PanelError):
    code = "does_not_fit"


class PortInUse(PanelError):
    code = "port_in_use"


class NotFound(PanelError):
    code = "not_found"


class ServerError(PanelError):
    """`status` is the HTTP status that the engine gave, `reason` its own code for the error, such
    as context_length_exceeded."""

    code = "server"

    def __init__(
        self, message: str, *, status: int | None = None, reason: str | None = None, fix: str = ""
    ) -> None:
        super().__init__(message, fix=fix)
        self.status = status
        self.reason = reason


class ServerUnreachable(ServerError):
    code = "server_unreachable"
