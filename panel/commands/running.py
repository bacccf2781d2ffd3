"""up · ui · supervise · config: the panel's own processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable

import typer

from engine.config import EngineConfig, OptionInfo, Options
from panel.commands.output import AsJson, console, say, say_json, table, warn
from panel.errors import PanelError
from panel.ports import require_free
from panel.runtimes.engine import PACKAGES_PATH
from panel.settings import Settings
from panel.supervisor.lock import AlreadyRunning, hold
from panel.supervisor.main import supervise as run_supervisor
from panel.tether import tethered

EXIT_ALREADY_RUNNING = 3
END_WITHIN_S = 10.0


class ChildEnded(PanelError):
    code = "child_ended"


def register(app: typer.Typer) -> None:
    for command in (up, ui, supervise, config):
        app.command()(command)


def up() -> None:
    """Start the supervisor and the panel; engines go on when these end."""
    settings = Settings.from_environment()
    address = f"http://{settings.host}:{settings.port}/"
    try:
        with hold(settings.home_path / "up.lock", what="The panel", text=address):
            require_free(settings.host, settings.port)
            _run_both(settings)
    except AlreadyRunning as running:
        say(f"Already running: {running.holder}")


def ui() -> None:
    """Run the web panel alone."""
    raise typer.Exit(subprocess.run(_ui_command(), env=_child_env(), check=False).returncode)


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
            default = "required" if option.required else str(option.default or "")
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


# --- up --------------------------------------------------------------------------------------


def _run_both(settings: Settings) -> None:
    """Run both children until one ends or we are asked to. A child that ended is not restarted:
    its reason is on the screen, and engines go on meanwhile."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    children = {"The supervisor": _start([sys.executable, "-m", "panel.supervisor"])}
    try:
        children["The panel"] = _start(_ui_command())
        while not stop.wait(0.2):
            _check(children, settings)
    finally:
        _end(children.values())
    say("Stopped. Engines go on; `autoglm stop ID` ends one.")


def _check(children: dict[str, subprocess.Popen[bytes]], settings: Settings) -> None:
    """Raises ChildEnded, except for a supervisor that found another one at work."""
    for name, child in list(children.items()):
        code = child.poll()
        if code is None:
            continue
        del children[name]
        if code != EXIT_ALREADY_RUNNING:
            raise ChildEnded(
                f"{name} ended with exit code {code}.",
                fix=f"See its messages above; its files are in {settings.home_path}.",
            )


def _start(argv: list[str]) -> subprocess.Popen[bytes]:
    """A child in a group of its own, so that Ctrl-C reaches it through us alone, and once."""
    command = tethered(argv, signal.SIGTERM)
    return subprocess.Popen(command, env=_child_env(), process_group=0)


def _end(children: Iterable[subprocess.Popen[bytes]]) -> None:
    running = [child for child in children if child.poll() is None]
    for child in running:
        child.terminate()
    for child in running:
        try:
            child.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _ui_command() -> list[str]:
    return [sys.executable, "-m", "panel.ui.serve"]


def _child_env() -> dict[str, str]:
    search = os.pathsep.join(filter(None, [str(PACKAGES_PATH), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": search}
