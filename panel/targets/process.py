"""An engine as a detached process of this machine: started, recognised, ended with all its kin.

A process is named by pid *and* start time, because the kernel gives pids out again. Every process
of an attempt also inherits the variable AUTOGLM_ATTEMPT: by it those are found whose parent has
died, and the one that was started just before the supervisor was killed and could not note it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from panel.runtimes.engine import Command

MARKER = "AUTOGLM_ATTEMPT"

INHERITED = frozenset(
    (
        *("PATH", "HOME", "USER", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR"),
        *("VIRTUAL_ENV", "LD_LIBRARY_PATH", "LD_PRELOAD", "XDG_CACHE_HOME"),
        *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_HOME", "NVIDIA_VISIBLE_DEVICES"),
        *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"),
    )
)
"""Variables passed on to an engine. Tokens and passwords of the environment are not."""

KILLED_WITHIN_S = 2.0
"""SIGKILL takes effect at once, but for a process inside the kernel."""

SAME_START_S = 2.0
"""Start times closer than this are equal: setting the clock moves them a little."""


@dataclass(frozen=True)
class ProcessId:
    """One process, for ever. started_at: psutil's create_time, seconds since 1970; marker: the
    name of its attempt, which it inherited. All three must agree."""

    pid: int
    started_at: float
    marker: str


_children: dict[ProcessId, subprocess.Popen[bytes]] = {}
"""Those that we are the parent of: only a parent learns the exit code and buries the zombie."""


def start(
    command: Command, *, marker: str, log_path: Path, environment: Mapping[str, str] | None = None
) -> ProcessId:
    """Start a program that outlives us, with stdout and stderr appended to `log_path`.

    marker: the attempt's name, inherited by all that the program starts.
    environment: what to inherit from; default: our own. Raises OSError if it cannot be started.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        handle = subprocess.Popen(
            command.argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=child_env(command, marker, os.environ if environment is None else environment),
            cwd=log_path.parent,
            start_new_session=True,
            umask=0o077,
        )
    finally:
        os.close(log)
    id = ProcessId(handle.pid, _start_time(handle.pid), marker)
    _children[id] = handle
    return id


def child_env(command: Command, marker: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of the new process: the harmless ones of ours, its own, and the marker."""
    inherited = {name: environment[name] for name in INHERITED if name in environment}
    return {**inherited, **command.env, MARKER: marker}


def is_alive(id: ProcessId) -> bool:
    """Whether this very process runs. A zombie does not, nor does a stranger with its pid."""
    exit_code(id)  # buries it if it was ours
    return _find(id) is not None


def adopt(marker: str) -> ProcessId | None:
    """The eldest living process that carries the marker, if there is one."""
    found = sorted(_marked(marker), key=lambda process: process.create_time())
    return ProcessId(found[0].pid, found[0].create_time(), marker) if found else None


def terminate(id: ProcessId) -> None:
    """Ask the process to end (SIGTERM); it ends its own children. A stopped one is continued."""
    process = _find(id)
    if process is None:
        return
    with suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)


def kill(id: ProcessId | None, marker: str) -> int:
    """End the process and everything that it started (SIGKILL); gives how many there were.

    psutil signals only the process it has seen: a pid that was given out again is left alone.
    """
    ended: set[int] = set()
    while members := _members(id, marker):
        for process in members:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        if not _all_end_within(KILLED_WITHIN_S, members):
            break  # in the kernel's hands (a driver call); the next look tries again
        ended |= {process.pid for process in members}
    if id is not None:
        exit_code(id)  # buries it if it was ours; the code is kept
    return len(ended)


def _all_end_within(limit_s: float, processes: list[psutil.Process]) -> bool:
    """Wait without burying anybody: the exit code of our own child is for its handle."""
    deadline = time.monotonic() + limit_s
    while any(map(_runs, processes)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def exit_code(id: ProcessId) -> int | None:
    """The exit code of an ended child of ours, negative for a signal; None where nobody told us."""
    return _children[id].poll() if id in _children else None


def _members(id: ProcessId | None, marker: str) -> list[psutil.Process]:
    """The process, its descendants, and all that carry the marker."""
    found = {process.pid: process for process in _marked(marker)}
    leader = _find(id) if id else None
    if leader is not None:
        with suppress(psutil.NoSuchProcess):
            found |= {process.pid: process for process in leader.children(recursive=True)}
            found[leader.pid] = leader
    return [process for process in found.values() if _runs(process)]


def _marked(marker: str) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARKER) == marker and _runs(process):
                found.append(process)
    return found


def _is_marked(process: psutil.Process, marker: str) -> bool:
    """Whether it carries the marker; one whose variables cannot be read gets the benefit.

    So does one that has none: right after exec the kernel shows an empty environment.
    """
    try:
        variables = process.environ()
        return not variables or variables.get(MARKER) == marker
    except psutil.AccessDenied:
        return True


def _find(id: ProcessId) -> psutil.Process | None:
    try:
        process = psutil.Process(id.pid)
        is_same = abs(process.create_time() - id.started_at) < SAME_START_S
        return process if is_same and _runs(process) and _is_marked(process, id.marker) else None
    except psutil.NoSuchProcess:
        return None


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def _start_time(pid: int) -> float:
    """Also right for a child that ended at once: it stays until we ask for its exit code."""
    return psutil.Process(pid).create_time()
