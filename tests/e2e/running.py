"""`autoglm up` as a process of its own, in a home of its own, on a port of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from panel.deployments import Panel
from panel.settings import Settings
from tests.e2e.world import free_port, wait_for

ROOT = Path(__file__).parents[2]
START_S, STOP_S = 60, 30


@dataclass
class RunningPanel:
    """`autoglm up` in a home of its own."""

    home: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        outer = {name: v for name, v in os.environ.items() if not name.startswith("AUTOGLM_")}
        return {**outer, "AUTOGLM_HOME": str(self.home), "AUTOGLM_PORT": str(self.port)}

    def start(self) -> None:
        log = (self.home / "up.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "panel.cli", "up"],
            cwd=ROOT,
            env=self.environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        wait_for("the panel", self.answers, timeout_s=START_S)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/_stcore/health", timeout=1) as answer:
                return answer.read() == b"ok"
        except OSError:
            return False

    def end(self) -> None:
        """Ctrl-C; engines go on."""
        if self.process:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(STOP_S)
            self.process = None

    def restart(self) -> None:
        self.end()
        self.start()

    def open(self) -> Panel:
        """The same panel's verbs in this process."""
        return Panel.open(Settings(home=str(self.home), port=self.port))
