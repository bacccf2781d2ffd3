"""Looking at the machine from outside: which processes belong to a home, and ending them."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil

T = TypeVar("T")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def processes_of(home: Path, words: str = "") -> list[psutil.Process]:
    """Every living process that works for this home and has `words` in its command line."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
            is_of_home = process.environ().get("AUTOGLM_HOME") == str(home) or str(home) in line
            if is_of_home and words in line and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def end_all_of(home: Path) -> None:
    """Nothing of a test outlives it, however the test ended. `up` goes first: it restarts."""
    for words in ("panel.cli up", ""):
        for process in processes_of(home, words):
            if process.pid != psutil.Process().pid:
                process.kill()


def wait_for(what: str, look: Callable[[], T | None], timeout_s: float = 120) -> T:
    """The first answer that is not None or False; fails with `what` when none comes in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = look()
        if found is not None and found is not False:
            return found
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s for {what}"
        time.sleep(0.1)
