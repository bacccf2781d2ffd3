"""launch · stop · redeploy · delete: asking for what should run."""

from __future__ import annotations

import getpass
import os
from typing import Annotated

import typer

from db.models import State
from engine.errors import ConfigError
from panel.commands.output import AsJson, deployment_json, opened, say, say_json, warn
from panel.commands.sizing import Context, Parallel
from panel.commands.waiting import wait_for
from panel.deployments import Panel
from panel.sizing.workload import Workload

Id = Annotated[str, typer.Argument(help="Id (its beginning is enough) or name.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Stay until it is done.")]


def register(app: typer.Typer) -> None:
    for command in (launch, stop, redeploy, delete):
        app.command()(command)


def launch(
    model: Annotated[str, typer.Argument(help="demo, a folder, hf:org/name or ms:org/name")],
    name: Annotated[str | None, typer.Option(help="Name in the API; default: the model's")] = None,
    precision: Annotated[
        str | None, typer.Option(help="float32, bfloat16, int8 or int4; default: what fits best")
    ] = None,
    context: Context = 4096,
    parallel: Parallel = 4,
    port: Annotated[int | None, typer.Option(help="Default: the next free from 8080")] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="Engine option NAME=VALUE, see `autoglm config`")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Also if it is too large")] = False,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Deploy a model, and show its stages until it is ready."""
    with opened() as panel:
        plan = panel.plan(
            model,
            name=name,
            precision=precision,
            workload=Workload(context, parallel),
            port=port,
            options=dict(map(_name_and_value, option or [])),
        )
        deployment = panel.launch(plan, actor=actor(), force=force)
        _follow(panel, deployment.id, {State.READY}, wait=wait, as_json=as_json)


def stop(id: Id, wait: Wait = True, as_json: AsJson = False) -> None:
    """End a deployment; its history stays."""
    with opened() as panel:
        deployment = panel.stop(id, actor=actor())
        goal = {State.STOPPED, State.FAILED}
        _follow(panel, deployment.id, goal, wait=wait, as_json=as_json, has_stages=False)


def redeploy(id: Id, wait: Wait = True, as_json: AsJson = False) -> None:
    """Deploy again what an earlier deployment was."""
    with opened() as panel:
        deployment = panel.redeploy(id, actor=actor())
        _follow(panel, deployment.id, {State.READY}, wait=wait, as_json=as_json)


def delete(id: Id) -> None:
    """Forget a deployment that has ended, with its logs and history."""
    with opened() as panel:
        found = panel.deployment(id)
        panel.delete(found.id)
    say(f"Deleted {found.id} ({found.name}).")


def actor() -> str:
    """Who asks, for the history."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no entry for this user id, as in some containers
        return f"uid {os.getuid()}"


def _follow(
    panel: Panel,
    id: str,
    goal: set[State],
    *,
    wait: bool,
    as_json: bool,
    has_stages: bool = True,
) -> None:
    """Wait for the goal, showing stages; exit code 1 where the deployment failed instead."""
    if wait:
        wait_for(panel, id, goal, quiet=as_json or not has_stages)
    elif not panel.supervisor_alive():
        warn("Nobody acts on this yet: no supervisor is running. Start it with `autoglm up`.")
    deployment = panel.deployment(id)
    if as_json:
        say_json(deployment_json(deployment, deployment.attempts))
    elif not wait:
        say(deployment.id)
    elif deployment.state is State.READY:
        say(
            f"{deployment.id} is ready at {deployment.endpoint}/v1 (key: {deployment.api_key_file})"
        )
    elif deployment.state is State.STOPPED:
        say(f"{deployment.id} is stopped.")
    if wait and deployment.state not in goal:
        raise typer.Exit(1)


def _name_and_value(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--option {text} has no value.", fix="Write --option NAME=VALUE.")
    return name.replace("-", "_"), value
