"""Showing a deployment's stages while they happen: live in a terminal, line by line elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from db.models import Deployment, Stage, StageStatus, State
from panel.commands.output import STAGE_SIGNS, console, seconds, warn
from panel.deployments import Panel
from panel.errors import PanelError

LOOK_EVERY_S = 0.25
EXIT_INTERRUPTED = 130
NOBODY_FOR_S = 10.0


class NobodyActs(PanelError):
    code = "no_supervisor"


def wait_for(panel: Panel, id: str, goal: set[State], *, quiet: bool) -> None:
    """Return when the deployment has reached a state of `goal` or cannot any more.

    Raises NobodyActs where no supervisor shows up. Prints the cause of a failure.
    """
    try:
        deployment = _show_until(panel, id, goal, quiet=quiet)
    except KeyboardInterrupt:
        warn(f"Only the waiting is over; {id} goes on. See `autoglm show {id}`.")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if deployment.state is State.FAILED:
        _tell_cause(deployment)


def _show_until(panel: Panel, id: str, goal: set[State], *, quiet: bool) -> Deployment:
    out = console(stderr=True)
    if quiet:
        return _watch(panel, id, goal, lambda _: None)
    if not out.is_terminal:
        return _watch(panel, id, goal, _Lines(out).show)
    with Live(console=out, refresh_per_second=8) as live:
        return _watch(panel, id, goal, lambda deployment: live.update(_picture(deployment)))


def _watch(
    panel: Panel, id: str, goal: set[State], show: Callable[[Deployment], None]
) -> Deployment:
    alone_since = time.monotonic()
    while True:
        deployment = panel.deployment(id)
        show(deployment)
        if deployment.state in goal or deployment.state.is_final:
            return deployment
        if panel.supervisor_alive():
            alone_since = time.monotonic()
        elif time.monotonic() - alone_since > NOBODY_FOR_S:
            raise NobodyActs(
                f"Noted, but no supervisor has been running for {NOBODY_FOR_S:g} s; {id} stays "
                f"{deployment.state} until one runs, and then it is done.",
                fix=f"Start it with `autoglm up`; `autoglm stop {id}` takes a launch back.",
            )
        time.sleep(LOOK_EVERY_S)


def _stages(deployment: Deployment) -> list[Stage]:
    return deployment.attempts[-1].stages if deployment.attempts else []


def _picture(deployment: Deployment) -> Group:
    """The last attempt's stages as a table with bars and times."""
    rows = Table.grid(padding=(0, 2))
    for stage in _stages(deployment):
        is_running = stage.status is StageStatus.RUNNING
        bar = ProgressBar(total=1.0, completed=stage.progress or 0.0, width=20)
        has_bar = is_running and stage.progress is not None
        style = {StageStatus.RUNNING: "bold", StageStatus.FAILED: "red"}.get(stage.status, "")
        rows.add_row(
            Text(STAGE_SIGNS[stage.status], style=style),
            Text(stage.name.replace("_", " "), style=style),
            seconds(stage.duration_s),
            bar if has_bar else "",
            Text(stage.detail, style="dim"),
        )
    number = f", attempt {len(deployment.attempts)}" if len(deployment.attempts) > 1 else ""
    return Group(Text(f"{deployment.name} ({deployment.id}): {deployment.state}{number}"), rows)


class _Lines:
    """Prints a line for each stage that begins or ends."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._shown: set[tuple[int, str, str]] = set()

    def show(self, deployment: Deployment) -> None:
        for stage in _stages(deployment):
            key = (stage.attempt_id, stage.name, stage.status)
            if stage.status is StageStatus.PENDING or key in self._shown:
                continue
            self._shown.add(key)
            words = (str(stage.name), str(stage.status), seconds(stage.duration_s), stage.detail)
            self._out.print(" ".join(filter(None, words)))


def _tell_cause(deployment: Deployment) -> None:
    cause = (deployment.attempts[-1].cause if deployment.attempts else None) or {}
    for line in cause.get("evidence", []):
        warn(f"  | {line}")
    warn(f"error: {deployment.id} failed: {cause.get('message', 'no cause was recorded')}")
    if cause.get("fix"):
        warn(f"fix: {cause['fix']}")
