"""The two programs of `autoglm up`, kept running with patience, not blindly.

A child that was killed or crashed is started again after a pause; one that keeps crashing, or says
by its exit code that starting again will not help, ends them all with its reason on the screen.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from panel.commands.output import warn
from panel.errors import PanelError
from panel.runtimes.engine import PACKAGES_PATH
from panel.tether import tethered

EXIT_REFUSED = 2
EXIT_ALREADY_RUNNING = 3
END_WITHIN_S = 10.0
MAX_RESTARTS = 3
RESTARTS_WITHIN_S = 60.0

LOOK_AGAIN_S = 30.0
"""Where somebody else does a child's work: after this long we see whether they still do."""


class ChildEnded(PanelError):
    code = "child_ended"


def pause_s(ends: Sequence[float], now: float) -> float | None:
    """How long to wait before starting a child again; None: it has ended too often.

    ends: when it ended, the last time included.
    """
    recent = [end for end in ends if now - end < RESTARTS_WITHIN_S]
    return None if len(recent) > MAX_RESTARTS else 2.0 ** (len(recent) - 1)


@dataclass
class Child:
    """One program. process is None while it is not to run (yet)."""

    name: str
    argv: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    ends: list[float] = field(default_factory=list)
    start_at: float = 0.0

    def step(self, now: float) -> None:
        """Start it when its time has come; see whether it has ended. Raises ChildEnded."""
        if self.process is None:
            if now >= self.start_at:
                self._start()
            return
        code = self.process.poll()
        if code is None:
            return
        self.process = None
        self.start_at = self._next_start(code, now)

    def _start(self) -> None:
        """In a group of its own, so that Ctrl-C reaches it through us alone, and once."""
        command = tethered(self.argv, signal.SIGTERM)
        self.process = subprocess.Popen(command, env=child_env(), process_group=0)

    def _next_start(self, code: int, now: float) -> float:
        if code == EXIT_ALREADY_RUNNING:
            return now + LOOK_AGAIN_S
        self.ends.append(now)
        pause = None if code == EXIT_REFUSED else pause_s(self.ends, now)
        if pause is None:
            raise ChildEnded(
                f"{self.name} ended with exit code {code} and is not started again.",
                fix="Its messages above say why.",
            )
        warn(f"{self.name} ended with exit code {code}; it is started again in {pause:g} s.")
        return now + pause

    def ask_to_end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def wait_for_end(self) -> None:
        if self.process is None:
            return
        try:
            self.process.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def run_all(children: Sequence[Child], stop: threading.Event) -> None:
    """Keep the children running until `stop` is set, then end them. Raises ChildEnded."""
    try:
        while not stop.wait(0.2):
            for child in children:
                child.step(time.monotonic())
    finally:
        for child in children:
            child.ask_to_end()
        for child in children:
            child.wait_for_end()


def child_env() -> dict[str, str]:
    """Our variables, and the packages findable from any folder."""
    search = os.pathsep.join(filter(None, [str(PACKAGES_PATH), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": search}
