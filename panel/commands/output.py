"""What commands print: tables for people, JSON for programs, plain text where nobody looks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from db.models import Attempt, Deployment, Stage, StageStatus, State, utc_now
from panel.deployments import Panel
from panel.settings import Settings

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

STATE_STYLES = {
    State.READY: "green",
    State.UNHEALTHY: "yellow",
    State.BACKOFF: "yellow",
    State.FAILED: "red",
    State.STOPPED: "dim",
}
STAGE_SIGNS = {
    StageStatus.PENDING: "·",
    StageStatus.RUNNING: "▸",
    StageStatus.DONE: "✓",
    StageStatus.SKIPPED: "–",
    StageStatus.FAILED: "✗",
}


@contextmanager
def opened() -> Iterator[Panel]:
    """The panel with the environment's settings."""
    panel = Panel.open(Settings.from_environment())
    try:
        yield panel
    finally:
        panel.close()


def console(*, stderr: bool = False) -> Console:
    """A terminal gets colours and its own width; a pipe or file gets plain, unbroken lines.

    Brackets are text: names, paths and messages may hold "[/a]", which rich would take for markup.
    """
    found = Console(stderr=stderr, highlight=False, markup=False, soft_wrap=True)
    if found.is_terminal:
        return found
    return Console(stderr=stderr, highlight=False, markup=False, width=200)


def say(text: str) -> None:
    """One line for people, exactly as it is."""
    typer.echo(text)


def warn(text: str) -> None:
    typer.echo(text, err=True)


def say_json(value: Any, *, one_line: bool = False) -> None:
    indent = None if one_line else 2
    typer.echo(json.dumps(value, ensure_ascii=False, indent=indent, default=_plain))


def table(*columns: str) -> Table:
    return Table(*columns, box=None, pad_edge=False, header_style="bold")


def gib(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"


def seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f} s" if value < 100 else f"{value / 60:.0f} min"


def age(at: datetime) -> str:
    """How long ago, in the unit that fits."""
    past = (utc_now() - at).total_seconds()
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if past >= size:
            return f"{past / size:.0f} {unit}"
    return f"{past:.0f} s"


def deployment_json(deployment: Deployment, attempts: Sequence[Attempt]) -> dict[str, Any]:
    return {
        "id": deployment.id,
        "name": deployment.name,
        "state": deployment.state,
        "desired": deployment.desired,
        "endpoint": deployment.endpoint,
        "api_key_file": deployment.api_key_file,
        "plan": deployment.plan,
        "predicted": deployment.predicted,
        "restarts": deployment.restarts,
        "note": deployment.note,
        "created_at": deployment.created_at,
        "updated_at": deployment.updated_at,
        "attempts": [attempt_json(attempt) for attempt in attempts],
    }


ATTEMPT_FIELDS = (
    *("number", "argv", "environment", "pid", "port", "log_path", "outcome", "exit_code"),
    *("cause", "measured", "created_at", "ready_at", "ended_at"),
)
STAGE_FIELDS = ("name", "status", "progress", "detail", "started_at", "ended_at", "duration_s")


def attempt_json(attempt: Attempt) -> dict[str, Any]:
    stages = [stage_json(stage) for stage in attempt.stages]
    return {**{name: getattr(attempt, name) for name in ATTEMPT_FIELDS}, "stages": stages}


def stage_json(stage: Stage) -> dict[str, Any]:
    return {name: getattr(stage, name) for name in STAGE_FIELDS}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if hasattr(value, "to_dict"):
        return value.to_dict()
    return str(value)
