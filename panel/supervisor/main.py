"""The supervisor as a program: settings, lock, signals, loop."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time

from panel.deployments import Panel
from panel.settings import Settings
from panel.supervisor.lock import hold
from panel.supervisor.loop import Supervisor


def supervise(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Raises AlreadyRunning where another one has this home."""
    _log_to_stderr(settings.log_level)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    lock = settings.home_path / "supervisor.lock"
    text = f"pid {os.getpid()}"
    with hold(lock, what=f"A supervisor of {settings.home_path}", text=text):
        panel = Panel.open(settings)
        try:
            Supervisor(settings, panel.database).run(stop)
        finally:
            panel.close()


def _log_to_stderr(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    form = logging.Formatter(
        "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S"
    )
    form.converter = time.gmtime
    handler.setFormatter(form)
    root = logging.getLogger("panel")
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
