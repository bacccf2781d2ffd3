"""Preparing a model as a child process: what it says becomes progress, a path, or a cause."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from panel.supervisor.preparing import PrepareJob
from panel.supervisor.seen import JobSeen, JobStatus
from panel.targets.process import MARKER


def looked_until_ended(job: PrepareJob) -> JobSeen:
    deadline = time.monotonic() + 20
    while job.look().status is JobStatus.RUNNING:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return job.look()


def child_of(marker: str) -> psutil.Process:
    """The Python that prepares, once it has begun to."""
    deadline = time.monotonic() + 20
    while True:
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):  # it ended meanwhile
                words, variables = process.cmdline(), process.environ()
                is_it = words[2:3] == ["panel.models.prepare"]
                if is_it and variables.get(MARKER) == f"{marker}/prepare":
                    return process
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A model folder whose config never comes: reading it waits for a writer."""
    os.mkfifo(tmp_path / "config.json")
    return tmp_path


def test_a_folder_without_a_config_is_a_permanent_error_with_its_line_in_the_log(
    tmp_path: Path,
) -> None:
    job = PrepareJob(str(tmp_path), tmp_path, "d-prepare/1")
    seen = looked_until_ended(job)
    assert seen.exit is not None
    assert seen.exit.is_permanent
    assert seen.exit.cause.code == "model_folder"
    assert [line.level for line in job.take_lines()] == ["error"]
    job.cancel()


def test_a_child_that_is_killed_may_be_tried_again(endless: Path) -> None:
    job = PrepareJob(str(endless), endless, "d-prepare/2")
    child_of("d-prepare/2").send_signal(signal.SIGKILL)
    seen = looked_until_ended(job)
    assert seen.exit is not None
    assert not seen.exit.is_permanent
    assert seen.exit.cause.code == "prepare_ended"
    job.cancel()


def test_cancelling_leaves_no_process(endless: Path) -> None:
    job = PrepareJob(str(endless), endless, "d-prepare/3")
    child = child_of("d-prepare/3")
    job.cancel()
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_second_job_ends_what_the_first_left_running(endless: Path) -> None:
    """As when the tether failed: the marker still finds it."""
    first = PrepareJob(str(endless), endless, "d-prepare/4")
    child = child_of("d-prepare/4")
    second = PrepareJob(str(endless), endless, "d-prepare/4")
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    first.cancel()
    second.cancel()
