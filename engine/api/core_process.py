"""The engine core as a child process: started with a private socket, watched, ended for certain.

The socket lies in a folder that only this user may enter, and is removed as soon as the core has
connected. Three ways lead to the core's end, so that it never outlives this process: the socket
closes, the kernel's parent-death signal (which the core asks for), and `end`, which kills.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from engine.api.core_link import CoreLink
from engine.core.messages import Fatal

logger = logging.getLogger("engine.api")

_MAX_SOCKET_PATH = 100
"""The kernel allows 107 bytes for a socket's path."""

_TERMINATE_S = 1.5
"""After this the core is killed: it is suspended, or hangs in the driver."""

CORE_COMMAND = (sys.executable, "-m", "engine.core.process")


class CoreProcess:
    """Runs `command --socket PATH argv…` beside a link. env: its environment; default: ours."""

    def __init__(
        self,
        link: CoreLink,
        argv: Sequence[str],
        command: Sequence[str] = CORE_COMMAND,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.link = link
        self._env = env
        self._argv = [*command, "--socket", "", *argv]
        self._socket_at = len(command) + 1
        self._folder: Path | None = None
        self._process: Process | None = None
        self._watching: asyncio.Task[None] | None = None

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.returncode if self._process else None

    async def start(self) -> None:
        """Listen, then start the core. Returns at once; the link tells how it goes on."""
        self._folder = _private_folder()
        path = self._folder / "core.sock"
        await self.link.listen(path)
        self._argv[self._socket_at] = str(path)
        self._process = await asyncio.create_subprocess_exec(
            *self._argv,
            env=self._env,
            process_group=0,  # Ctrl-C in a terminal goes to the API process, which drains first
        )
        logger.info("Started the engine core as process %d", self._process.pid)
        self._watching = asyncio.create_task(self._watch(self._process))

    async def why_ended(self, wait_s: float) -> Fatal:
        """After the link is lost: what the core said, or by which exit code or signal it went."""
        if self._watching:
            await asyncio.wait({self._watching}, timeout=wait_s)
        unsaid = Fatal("EngineUnavailable", "The engine core closed its socket.", "")
        return self.link.fatal or unsaid

    async def end(self, grace_s: float) -> None:
        """Close the socket, wait, then terminate and kill. Nothing is left when it returns."""
        await self.link.close()
        if self._process:
            await _reap(self._process, grace_s)
        if self._watching:
            await self._watching
        self._remove_folder()

    async def _watch(self, process: Process) -> None:
        """Tell the link when the process has ended, whatever its socket looks like."""
        connected = asyncio.create_task(self.link.connected.wait())
        ended = asyncio.create_task(process.wait())
        await asyncio.wait({connected, ended}, return_when=asyncio.FIRST_COMPLETED)
        connected.cancel()
        self._remove_folder()
        exit_code = await ended
        if (
            self.link.connected.is_set()
        ):  # a last message may still wait in the socket, before its end
            with suppress(TimeoutError):
                await asyncio.wait_for(self.link.lost.wait(), 1.0)
        if self.link.fatal is None:
            self.link.fatal = Fatal("EngineUnavailable", _describe_end(exit_code), "")
        self.link.lose()

    def _remove_folder(self) -> None:
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


async def _reap(process: Process, grace_s: float) -> None:
    """A core has nothing to save: one that is slow to go (unloading torch takes seconds on a busy
    machine) is ended by a signal."""
    for wait_s, send in ((grace_s, process.terminate), (_TERMINATE_S, process.kill)):
        try:
            await asyncio.wait_for(process.wait(), wait_s)
        except TimeoutError:
            logger.info("The engine core goes on after %g s; sending %s", wait_s, send.__name__)
            send()
        else:
            return
    await process.wait()


def _private_folder() -> Path:
    folder = tempfile.mkdtemp(prefix="autoglm-")
    if len(folder) > _MAX_SOCKET_PATH:
        Path(folder).rmdir()
        folder = tempfile.mkdtemp(prefix="autoglm-", dir="/tmp")
    return Path(folder)


def _describe_end(exit_code: int) -> str:
    """In words, with the likely reason of a kill nobody asked for."""
    if exit_code >= 0:
        return f"The engine core ended with exit code {exit_code}."
    name = signal.Signals(-exit_code).name
    hint = " The system kills so when memory runs out." if name == "SIGKILL" else ""
    return f"The engine core was ended by {name}.{hint}"
