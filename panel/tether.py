"""Runs a program that ends when its parent does, however the parent ended (Linux only).

    python -m panel.tether KILL 1234 program argument …

The kernel is asked to send the signal at the parent's death; that wish survives exec. Done in a
program of its own, because code between fork and exec in a process with threads can lock up.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def tethered(argv: Sequence[str], sent: signal.Signals = signal.SIGKILL) -> list[str]:
    """The command that runs `argv` tethered to us. Start it from a thread that lives as long as
    it should: the kernel means the thread that started it."""
    word = sent.name.removeprefix("SIG")
    return [sys.executable, "-m", "panel.tether", word, str(os.getpid()), *argv]


def main(words: Sequence[str]) -> None:
    sent, parent, *argv = words
    number = signal.Signals[f"SIG{sent}"]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != int(parent):  # it died before we could ask
        sys.exit(1)
    os.execvp(argv[0], argv)


if __name__ == "__main__":
    main(sys.argv[1:])
