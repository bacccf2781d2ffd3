"""The models that the wizard offers, with enough of their configs to size them without a network.

The list is `catalog.json`. An entry's parameter count is checked by a test against the formulas;
`linears` stands there only where no formula covers the family. Any other model can be given by id
or folder; this list is a short-cut, not a limit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Any

from engine.footprint import LinearShape
from panel.models.families import Counted, count
from panel.models.source import ModelSource, SourceKind, parse


class Tier(StrEnum):
    """demo: any machine. small: 7B class. large: 13B class."""

    DEMO = "demo"
    SMALL = "small"
    LARGE = "large"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One offered model. description: language code (en, zh) → one line.

    gated: the hub asks for an account that accepted the licence (HF_TOKEN).
    download_bytes: what has to be fetched, weights in the type they are published in.
    """

    source: ModelSource
    tier: Tier
    licence: str
    gated: bool
    context_tokens: int
    num_params: int
    download_bytes: int
    description: Mapping[str, str]
    config: Mapping[str, Any]
    linears: tuple[LinearShape, ...] = ()

    @property
    def name(self) -> str:
        return self.source.display_name

    @property
    def counted(self) -> Counted:
        return count(self.config) or Counted(self.num_params, self.linears)


@cache
def catalog() -> tuple[Entry, ...]:
    """All entries: the demo first, then the small tier, then the large one."""
    rows = json.loads(files("panel.models").joinpath("catalog.json").read_text(encoding="utf-8"))
    return tuple(_entry(row) for row in rows)


def entry_of(source: ModelSource) -> Entry | None:
    """The entry of this source, on either hub and at its default revision; None if not offered."""
    if source.kind is SourceKind.LOCAL or source.revision:
        return None
    return next((entry for entry in catalog() if entry.source.name == source.name), None)


def _entry(row: Mapping[str, Any]) -> Entry:
    return Entry(
        **{
            **row,
            "source": parse(row["source"]),
            "tier": Tier(row["tier"]),
            "linears": tuple(LinearShape(*shape) for shape in row.get("linears", ())),
        }
    )
