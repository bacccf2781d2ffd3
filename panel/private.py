"""Folders that only their owner can enter: they hold keys, and what people said to models."""

from __future__ import annotations

from pathlib import Path


def make_private_folder(path: Path) -> None:
    """Make a folder with mode 0700. One that is there keeps the mode that its owner gave it."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
