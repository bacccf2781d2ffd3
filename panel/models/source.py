"""Where a model comes from, written as a person writes it: demo, a folder, or an id on a hub.

    demo                        the built-in model, from a package registry
    /models/mine · ./mine · ~/m a folder on this machine
    Qwen/Qwen3-8B[@revision]    Hugging Face; the same as hf:Qwen/Qwen3-8B
    ms:Qwen/Qwen3-8B[@revision] ModelScope

Only reads the text; whether the model exists is found out elsewhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from panel.errors import SourceError


class SourceKind(StrEnum):
    DEMO = "demo"
    LOCAL = "local"
    HUGGINGFACE = "huggingface"
    MODELSCOPE = "modelscope"


_PREFIXES = {"hf": SourceKind.HUGGINGFACE, "ms": SourceKind.MODELSCOPE}
_SHORT = {kind: prefix for prefix, kind in _PREFIXES.items()}
_HUB_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
_GRAMMAR = "Give demo, a folder (/models/mine), org/name for Hugging Face or ms:org/name."

DEMO_NAME = "SmolLM2-135M-Instruct"


@dataclass(frozen=True, slots=True)
class ModelSource:
    """name: the hub id (org/name), the folder's absolute path, or the demo model's name."""

    kind: SourceKind
    name: str
    revision: str | None = None

    def __str__(self) -> str:
        """The text that `parse` reads back to this source."""
        if self.kind is SourceKind.DEMO:
            return "demo"
        if self.kind is SourceKind.LOCAL:
            return self.name
        revision = f"@{self.revision}" if self.revision else ""
        return f"{_SHORT[self.kind]}:{self.name}{revision}"

    @property
    def display_name(self) -> str:
        """The model's short name: what comes last in the id or path."""
        return self.name.rstrip("/").rpartition("/")[2] or self.name


DEMO = ModelSource(SourceKind.DEMO, DEMO_NAME)


def parse(text: str) -> ModelSource:
    """Read what a person typed. Raises SourceError with the grammar if it is neither."""
    text = text.strip()
    if text == "demo":
        return DEMO
    if text.startswith(("/", "./", "../", "~")) or text in (".", ".."):
        return _local(text)
    prefix, colon, rest = text.partition(":")
    if colon and prefix in _PREFIXES:
        return _hub(_PREFIXES[prefix], rest, text)
    if text and Path(text).is_dir():
        return _local(text)
    return _hub(SourceKind.HUGGINGFACE, text, text)


def _local(text: str) -> ModelSource:
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise SourceError(f"{text!r}: {error}", fix="Give the folder's full path.") from None
    return ModelSource(SourceKind.LOCAL, str(path.resolve()))


def _hub(kind: SourceKind, rest: str, text: str) -> ModelSource:
    match = _HUB_ID.fullmatch(rest)
    if match is None or ".." in rest:
        raise SourceError(f"{text!r} is neither a folder here nor a model id.", fix=_GRAMMAR)
    return ModelSource(kind, match["name"], match["revision"])
