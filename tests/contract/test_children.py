"""Programs that end with their parent, and `autoglm up`, which keeps two of them running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from panel.commands.children import LOOK_AGAIN_S, Child, ChildEnded, pause_s, run_all
from panel.errors import PanelError
from panel.supervisor.lock import AlreadyRunning, hold
from panel.targets import process

PARENT = """
import subprocess, sys, time
from panel.tether import tethered
child = subprocess.Popen(tethered([sys.executable, "-c", "import time; time.sleep(600)"]))
print(child.pid, flush=True)
time.sleep(600)
"""


def wait_until(is_so: Callable[[], bool], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_tethered_program_ends_when_its_parent_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
    assert parent.stdout
    with parent.stdout as said:
        pid = int(said.readline())
    wait_until(lambda: "time.sleep" in " ".join(psutil.Process(pid).cmdline()))
    parent.kill()
    parent.wait()
    wait_until(lambda: not runs(pid))


def test_a_program_whose_parent_is_already_gone_does_not_start() -> None:
    argv = [sys.executable, "-m", "panel.tether", "KILL", "1", sys.executable, "-c", "print(7)"]
    done = subprocess.run(argv, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")


@pytest.mark.parametrize(
    ("ends", "pause"),
    [([100], 1), ([70, 100], 2), ([30, 100], 1), ([70, 80, 90, 100], None)],
)
def test_a_child_is_started_again_with_growing_pauses_and_three_times_a_minute_at_most(
    ends: list[float], pause: float | None
) -> None:
    assert pause_s(ends, now=100) == pause


def python(code: str) -> Child:
    return Child("The program", [sys.executable, "-c", code])


def test_a_killed_child_comes_back_as_another_process() -> None:
    child = python("import time; time.sleep(600)")
    child.step(now=0)
    assert child.process
    first = child.process
    first.kill()
    first.wait()
    child.step(now=10)
    assert child.process is None
    child.step(now=10.5)
    assert child.process is None, "not before its pause is over"
    child.step(now=11)
    assert child.process
    assert child.process.pid != first.pid
    child.ask_to_end()
    child.wait_for_end()


def test_a_child_that_refuses_to_start_is_not_asked_again() -> None:
    with pytest.raises(ChildEnded, match="exit code 2"):
        run_all([python("raise SystemExit(2)")], threading.Event())


def test_a_child_whose_work_another_does_is_left_out_and_the_others_go_on() -> None:
    stop = threading.Event()
    threading.Timer(1.5, stop.set).start()
    other = python("import time; time.sleep(600)")
    run_all([python("raise SystemExit(3)"), other], stop)
    assert other.process
    assert other.process.returncode == -signal.SIGTERM


def test_a_child_whose_work_another_does_is_tried_again_later_however_often() -> None:
    """Else nobody would act once the other one has ended."""
    child = python("raise SystemExit(3)")
    for now in range(0, 600, 100):
        child.step(now)
        assert child.process, "it is started when its time has come"
        child.process.wait()
        child.step(now + 1)
        child.step(now + 1 + LOOK_AGAIN_S / 2)
        assert child.process is None


def test_a_lock_is_free_again_however_its_holder_ended(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom panel.supervisor.lock import hold\n"
        f"with hold(Path({str(tmp_path / 'lock')!r}), what='It', text='pid 7'):\n"
        "    print('held', flush=True)\n    time.sleep(600)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert holder.stdout
    with holder.stdout as said:
        said.readline()
    with (
        pytest.raises(AlreadyRunning, match=r"It is already running \(pid 7\)") as caught,
        hold(tmp_path / "lock", what="It", text=""),
    ):
        pass
    assert isinstance(caught.value, PanelError)
    holder.kill()
    holder.wait()
    with hold(tmp_path / "lock", what="It", text=""):
        pass


def test_killing_by_marker_leaves_others_alone() -> None:
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    mine, other = (
        subprocess.Popen(sleeper, env={**os.environ, process.MARKER: marker})
        for marker in ("d-test/1", "d-test/11")
    )
    try:
        wait_until(lambda: bool(psutil.Process(mine.pid).environ()))
        assert process.kill(None, "d-test/1") == 1
        assert mine.wait() == -signal.SIGKILL
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_process_whose_environment_is_not_there_yet_counts_as_alive() -> None:
    """Right after exec the kernel shows none; taken for a stranger, it was given up and lost."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env={})
    try:
        started_at = psutil.Process(child.pid).create_time()
        assert process.is_alive(process.ProcessId(child.pid, started_at, "d-test/2"))
    finally:
        child.kill()
        child.wait()
