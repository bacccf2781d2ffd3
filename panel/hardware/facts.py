"""Reading a frozen dataclass of facts back from JSON, with every field checked.

A file may have been written by hand for a machine that does not exist yet, so a missing, unknown or
mistyped field is refused by its full name, as in `gpus[1].memory_bytes`.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, TypeVar

from panel.errors import SettingsError

T = TypeVar("T")
_WORDS = {
    int: "a whole number, not negative",
    float: "a number",
    str: "text",
    bool: "true or false",
}


def read_fields(kind: type[T], data: Any, origin: str, where: str = "") -> T:
    """An instance of the dataclass `kind`. where: the field that holds it, for messages."""
    if not isinstance(data, Mapping):
        raise SettingsError(
            f"{origin}: {where or 'the whole'} is {_shown(data)}, not an object of fields."
        )
    assert is_dataclass(kind)
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in fields(kind)}
    prefix = f"{where}." if where else ""
    for name in data.keys() - known.keys():
        near = get_close_matches(str(name), known, n=1)
        raise SettingsError(
            f"{origin}: the field {prefix}{name} is not known.",
            fix=f"Did you mean {near[0]}?" if near else f"Fields: {', '.join(known)}.",
        )
    missing = [n for n, f in known.items() if f.default is MISSING and n not in data]
    if missing:
        raise SettingsError(
            f"{origin}: {', '.join(prefix + name for name in missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing.",
            fix="`autoglm detect --json` prints a complete example; so do docs/machines/.",
        )
    values = {n: _read(hints[n], value, origin, prefix + n) for n, value in data.items()}
    return typing.cast(T, kind(**values))


def _read(kind: Any, value: Any, origin: str, where: str) -> Any:
    """`value` as an instance of `kind`, which is any type that a field of facts may have."""
    parts = typing.get_args(kind)
    if isinstance(kind, types.UnionType):  # X | None
        return None if value is None else _read(parts[0], value, origin, where)
    if typing.get_origin(kind) is tuple:
        return _read_tuple(parts, value, origin, where)
    if is_dataclass(kind):
        return read_fields(typing.cast(type, kind), value, origin, where)
    if issubclass(kind, StrEnum):
        if value in list(kind):
            return kind(value)
        raise _refusal(origin, where, value, f"one of {', '.join(kind)}")
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind or (kind is int and value < 0):
        raise _refusal(origin, where, value, _WORDS[kind])
    return value


def _read_tuple(parts: tuple[Any, ...], value: Any, origin: str, where: str) -> tuple[Any, ...]:
    """A tuple[X, ...] of any length or a tuple[X, Y] of that length."""
    if not isinstance(value, list | tuple):
        raise _refusal(origin, where, value, "a list")
    kinds = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
    if len(kinds) != len(value):
        raise _refusal(origin, where, value, f"a list of {len(kinds)}")
    return tuple(
        _read(kind, item, origin, f"{where}[{i}]")
        for i, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )


def _refusal(origin: str, where: str, value: Any, wanted: str) -> SettingsError:
    return SettingsError(f"{origin}: {where} is {_shown(value)}, which is not {wanted}.")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
