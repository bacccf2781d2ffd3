"""A supervisor as a program of its own, for tests that kill it: its engines are stand-ins.

AUTOGLM_HOME=… python -m tests.contract.run_supervisor
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

from panel.deployments import Panel
from panel.runtimes.engine import Command
from panel.runtimes.plan import Plan
from panel.settings import Settings
from panel.supervisor.loop import Supervisor

STAND_IN = Path(__file__).with_name("stand_in_engine.py")


def stand_in(plan: Plan, *, port: int, **_: Any) -> Command:
    """The command of an engine that behaves as the plan's name says: `ok`, `stuck`, …"""
    words = ("--port", str(port), "--name", plan.name, "--behave", plan.name)
    return Command((sys.executable, str(STAND_IN), *words), {})


if __name__ == "__main__":
    panel = Panel.open(Settings.from_environment())
    Supervisor(panel.settings, panel.database, command=stand_in).run(threading.Event())
