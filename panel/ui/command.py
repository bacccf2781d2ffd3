"""A command line to copy, broken for reading only between its options."""

from __future__ import annotations

import shlex

import streamlit as st

WIDTH = 52
"""Characters in a line; what the narrowest of the pages' columns shows at 1280 pixels."""


def draw_command(line: str, width: int = WIDTH) -> None:
    st.code(in_lines(line, width), language=None)


def in_lines(line: str, width: int = WIDTH) -> str:
    """The same command over several lines for a POSIX shell, each option beside its value."""
    lines: list[str] = []
    for part in _parts(line):
        if lines and len(lines[-1]) + 1 + len(part) <= width:
            lines[-1] += f" {part}"
        else:
            lines.append(part)
    return " \\\n  ".join(lines)


def _parts(line: str) -> list[str]:
    """What must stand together: the command with its subject, and each option with its value."""
    parts: list[list[str]] = [[]]
    for word in shlex.split(line):
        if word.startswith("--") and parts[-1]:
            parts.append([])
        parts[-1].append(word)
    return [shlex.join(part) for part in parts]
