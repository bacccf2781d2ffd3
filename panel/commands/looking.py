"""ls · show · logs: what was seen."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.text import Text

from db.models import Attempt, Deployment, Event, LogLine
from panel.commands.deploying import Id
from panel.commands.output import (
    STAGE_SIGNS,
    STATE_STYLES,
    AsJson,
    age,
    console,
    deployment_json,
    opened,
    say,
    say_json,
    seconds,
    table,
)

FOLLOW_EVERY_S = 0.3
FOLLOW_LINES = 5_000


def register(app: typer.Typer) -> None:
    for command in (ls, show, logs):
        app.command()(command)


def ls(
    text: Annotated[str | None, typer.Argument(help="Only those with this in name or id")] = None,
    as_json: AsJson = False,
) -> None:
    """List deployments, newest first."""
    with opened() as panel:
        found = panel.deployments(text)
    if as_json:
        say_json([deployment_json(d, [d.last_attempt] if d.last_attempt else []) for d in found])
        return
    rows = table("id", "name", "state", "precision", "endpoint", "restarts", "age")
    for d in found:
        state = Text(d.state, style=STATE_STYLES.get(d.state, ""))
        plan = d.plan.get("precision", "")
        rows.add_row(
            d.id, d.name, state, plan, d.endpoint or "", str(d.restarts or ""), age(d.created_at)
        )
    console().print(rows)


def show(id: Id, as_json: AsJson = False) -> None:
    """Show one deployment: its attempts with their stages, and its events."""
    with opened() as panel:
        deployment = panel.deployment(id)
        events = panel.events(deployment.id)
    if as_json:
        value = deployment_json(deployment, deployment.attempts)
        say_json({**value, "events": [_event_json(event) for event in events]})
        return
    _show_head(deployment)
    for attempt in deployment.attempts:
        _show_attempt(attempt)
    say("\nevents")
    for event in sorted(events, key=lambda e: e.id):
        say(f"  {event.at:%Y-%m-%d %H:%M:%S} {event.actor}: {event.message}")


def logs(
    id: Id,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as lines come")] = False,
    search: Annotated[str, typer.Option(help="Only lines with these words")] = "",
    level: Annotated[str | None, typer.Option(help="debug, info, warning or error")] = None,
    limit: Annotated[int, typer.Option("-n", "--limit", help="The newest so many")] = 300,
    as_json: AsJson = False,
) -> None:
    """Print what the engine and the preparing of its model wrote."""
    with opened() as panel:
        deployment = panel.deployment(id)
        lines, seen_id = panel.new_logs(deployment.id, text=search, level=level, limit=limit)
        _print_lines(lines, as_json=as_json)
        while follow:
            time.sleep(FOLLOW_EVERY_S)
            lines, seen_id = panel.new_logs(
                deployment.id, text=search, level=level, after_id=seen_id, limit=FOLLOW_LINES
            )
            _print_lines(lines, as_json=as_json)


def _print_lines(lines: Sequence[LogLine], *, as_json: bool) -> None:
    """JSON is one object a line here, so that it can be followed too."""
    for line in lines:
        at = f"{line.at:%Y-%m-%dT%H:%M:%S}.{line.at.microsecond // 1000:03d}Z"
        if as_json:
            value = {"at": at, "level": line.level, "source": line.source, "text": line.text}
            say_json(value, one_line=True)
        else:
            say(f"{at} {line.level.upper():7} {line.text}")


def _show_head(deployment: Deployment) -> None:
    say(f"{deployment.name} ({deployment.id}): {deployment.state}, wanted {deployment.desired}")
    for name, value in (
        ("source", deployment.plan.get("source")),
        ("endpoint", deployment.endpoint),
        ("key file", deployment.api_key_file),
        ("note", deployment.note),
    ):
        if value:
            say(f"  {name}: {value}")


def _show_attempt(attempt: Attempt) -> None:
    outcome = f": {attempt.outcome}" if attempt.outcome else ""
    code = f" (exit code {attempt.exit_code})" if attempt.exit_code is not None else ""
    say(f"\nattempt {attempt.number}{outcome}{code}")
    rows = table("", "stage", "time", "detail")
    for stage in attempt.stages:
        sign = STAGE_SIGNS[stage.status]
        rows.add_row(sign, str(stage.name), seconds(stage.duration_s), stage.detail)
    console().print(rows)
    if attempt.cause:
        say(f"  cause: {attempt.cause['message']}")
        if attempt.cause.get("fix"):
            say(f"  fix: {attempt.cause['fix']}")


def _event_json(event: Event) -> dict[str, Any]:
    names = ("at", "actor", "kind", "message", "data")
    return {name: getattr(event, name) for name in names}
