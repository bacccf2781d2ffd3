"""up · ui · supervise · config: the panel's own processes."""

from __future__ import annotations

import os
import signal
import sys
import threading

import typer

from engine.config import EngineConfig, OptionInfo, Options
from panel.commands.children import EXIT_ALREADY_RUNNING, Child, child_env, run_all
from panel.commands.output import AsJson, console, say, say_json, table, warn
from panel.deployments import Panel
from panel.errors import PortInUse
from panel.ports import require_free
from panel.settings import Settings
from panel.supervisor.lock import AlreadyRunning, hold
from panel.supervisor.main import supervise as run_supervisor

UI = ("-m", "panel.ui.serve")


def register(app: typer.Typer) -> None:
    for command in (up, ui, supervise, config):
        app.command()(command)


def up() -> None:
    """Start the supervisor and the panel; engines go on when these end."""
    settings = Settings.from_environment()
    address = f"http://{settings.host}:{settings.port}/"
    try:
        with hold(settings.home_path / "up.lock", what="The panel", text=address):
            _require_port(settings)
            _run_both()
            _tell_what_goes_on(settings)
    except AlreadyRunning as running:
        say(f"Already running: {running.holder}")
        token_path = settings.keys_path / "panel.token"
        if token_path.exists():
            say(f"The token for a first login from elsewhere is in {token_path}")


def _require_port(settings: Settings) -> None:
    try:
        require_free(settings.host, settings.port)
    except PortInUse as error:
        error.fix = f"Choose another one: AUTOGLM_PORT={settings.port + 1} autoglm up"
        raise


def _tell_what_goes_on(settings: Settings) -> None:
    """The last words of `up`: which engines it leaves running, and who looks after them."""
    panel = Panel.open(settings)
    try:
        active = [d for d in panel.deployments() if not d.state.is_final]
    finally:
        panel.close()
    say("Supervisor and panel have stopped.")
    for deployment in active:
        where = f" at {deployment.endpoint}" if deployment.endpoint else ""
        say(f"{deployment.name} ({deployment.id}) goes on, {deployment.state}{where}.")
    if active:
        say("`autoglm up` finds it again; `autoglm stop` works while that runs.")


def ui() -> None:
    """Run the web panel alone."""
    os.execve(sys.executable, [sys.executable, *UI], child_env())


def supervise() -> None:
    """Run the supervisor alone; without it nothing is started or stopped."""
    try:
        run_supervisor(Settings.from_environment())
    except AlreadyRunning as running:
        warn(f"error: {running.message}")
        raise typer.Exit(EXIT_ALREADY_RUNNING) from running


def config(as_json: AsJson = False) -> None:
    """List every option of the engine (for `launch --option`) and of the panel (environment)."""
    programs: dict[str, type[Options]] = {"engine": EngineConfig, "panel": Settings}
    if as_json:
        say_json({name: [_option_json(o) for o in c.options()] for name, c in programs.items()})
        return
    for name, options in programs.items():
        rows = table("option" if name == "engine" else "variable", "default", "allowed", "help")
        for option in options.options():
            shown = option.name if name == "engine" else f"AUTOGLM_{option.name.upper()}"
            default = "required" if option.required else str(option.default)
            default = "" if option.default in (None, "") else default
            rows.add_row(shown, default, option.allowed, option.help)
        console().print(rows)
        say("")


def _option_json(option: OptionInfo) -> dict[str, object]:
    return {
        "name": option.name,
        "flag": option.flag,
        "default": None if option.required else option.default,
        "required": option.required,
        "allowed": option.allowed,
        "help": option.help,
    }


def _run_both() -> None:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    python = sys.executable
    run_all(
        [
            Child("The supervisor", [python, "-m", "panel.supervisor"]),
            Child("The panel", [python, *UI]),
        ],
        stop,
    )
