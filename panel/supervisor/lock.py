"""One at a time: a lock on a file, which the kernel gives back however its holder ends."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from panel.errors import PanelError
from panel.private import make_private_folder


class AlreadyRunning(PanelError):
    """`holder` is what the one that runs wrote into the file."""

    code = "already_running"

    def __init__(self, message: str, holder: str, *, fix: str = "") -> None:
        super().__init__(message, fix=fix)
        self.holder = holder


@contextmanager
def hold(path: Path, *, what: str, text: str) -> Iterator[None]:
    """Hold the lock while the block runs, with `text` in the file for others to read.

    what: who we are, for the message. Raises AlreadyRunning.
    """
    make_private_folder(path.parent)  # the home folder, at the first start
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip()
            raise AlreadyRunning(f"{what} is already running ({holder}).", holder) from None
        file.truncate(0)
        file.write(text)
        file.flush()
        yield
