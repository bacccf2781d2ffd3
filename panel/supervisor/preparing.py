"""Fetching and converting a model in a child process: its JSON lines become progress.

The child ends with the supervisor (tether), and so never works unseen. The next supervisor starts
it again, and it goes on with what is already on the disk.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from db.log_lines import NewLine
from db.models import StageName, utc_now
from panel.runtimes.engine import PACKAGES_PATH
from panel.supervisor.causes import EVIDENCE_LINES, EXIT_PERMANENT, Cause, Exit
from panel.supervisor.logtail import split
from panel.supervisor.seen import JobSeen, JobStatus
from panel.targets import process
from panel.tether import tethered

SOURCE = "prepare"


def marker_of(attempt_marker: str) -> str:
    """The mark of the child and its children, which is not the engine's."""
    return f"{attempt_marker}/prepare"


class PrepareJob:
    """`python -m panel.models.prepare`, read without waiting."""

    def __init__(self, source: str, models_path: Path, attempt_marker: str) -> None:
        self._marker = marker_of(attempt_marker)
        process.kill(None, self._marker)  # what an earlier supervisor's child left running
        argv = [sys.executable, "-m", "panel.models.prepare", source]
        argv += ["--models-path", str(models_path)]
        search = os.pathsep.join(filter(None, [str(PACKAGES_PATH), os.environ.get("PYTHONPATH")]))
        self._child = subprocess.Popen(
            tethered(argv, signal.SIGKILL),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": search, process.MARKER: self._marker},
            start_new_session=True,
        )
        assert self._child.stdout
        assert self._child.stderr
        self._said = _Pipe(self._child.stdout)
        self._printed = _Pipe(self._child.stderr)
        self._lines: list[NewLine] = []
        self._last_texts: deque[str] = deque(maxlen=EVIDENCE_LINES)
        self._path: Path | None = None
        self._error: Cause | None = None
        self._seen = JobSeen(stage=StageName.DOWNLOAD, status=JobStatus.RUNNING)

    def look(self) -> JobSeen:
        if self._seen.status is JobStatus.RUNNING:
            code = self._child.poll()
            for text in self._said.take():
                self._hear(text)
            for text in self._printed.take():
                self._print(text)
            if code is not None:
                self._seen = self._ended(code)
        return self._seen

    def take_lines(self) -> list[NewLine]:
        lines, self._lines = self._lines, []
        return lines

    def cancel(self) -> None:
        process.kill(None, self._marker)
        self._child.wait()
        self._said.close()
        self._printed.close()

    def _hear(self, text: str) -> None:
        """One line of the child's stdout: JSON as promised, or something for the log."""
        told = _json_object(text)
        if told is None:
            self._print(text)
        elif "path" in told:
            self._print(f"The model is in {told['path']}")
            self._path = Path(told["path"])
        elif "error" in told:
            error = told["error"]
            self._error = Cause(
                code=error["code"], message=error["message"], fix=error.get("fix") or ""
            )
            self._print(f"{self._error.message} {self._error.fix}".strip(), "error")
        else:
            words = f"{told.get('stage', '')}: {told.get('detail', '')}"
            self._seen = replace(
                self._seen, progress=told.get("progress"), detail=words.strip(": ")
            )

    def _print(self, text: str, level: str = "info") -> None:
        if text.strip():
            self._lines.append(NewLine(utc_now(), level, SOURCE, text))
            self._last_texts.append(text)

    def _ended(self, code: int) -> JobSeen:
        if code == 0 and self._path is not None:
            return replace(self._seen, status=JobStatus.DONE, progress=1.0, result=self._path)
        cause = self._error or Cause(
            code="prepare_ended",
            message=f"Preparing the model ended with exit code {code}.",
            fix="See the log lines of `prepare`.",
            evidence=tuple(self._last_texts),
        )
        is_permanent = code == EXIT_PERMANENT
        ended = Exit(code=code, cause=cause, is_permanent=is_permanent)
        return replace(self._seen, status=JobStatus.FAILED, exit=ended)


class _Pipe:
    """The reading end of a pipe, as lines."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._rest = b""
        os.set_blocking(file.fileno(), False)

    def take(self) -> list[str]:
        """Whole lines that are there now; at the pipe's end also the unfinished last one."""
        if self._file.closed:
            return []
        is_end = False
        while True:
            try:
                data = os.read(self._file.fileno(), 65536)
            except BlockingIOError:
                break
            if not data:
                is_end = True
                break
            self._rest += data
        whole, newline, rest = self._rest.rpartition(b"\n")
        if is_end:
            whole, newline, rest = self._rest, b"", b""
            self._file.close()
        self._rest = rest
        return split(whole + newline)

    def close(self) -> None:
        self._file.close()


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
