"""The other ranks of a tensor-parallel core, as rank 0 sees them: started, told each step, watched.

    core (rank 0) ── socket pair, msgpack frames ──> rank 1, rank 2 …     a step's arrays, no pickle
                  <─────────────────────────────── a Fatal, if one fails by itself

Only what a step is goes through the sockets; hidden states are summed by torch.distributed. One
rank that ends leaves the others waiting for it in a collective for ever, so a thread watches the
sockets and ends the core at once. A core that ends takes its ranks with it: their socket closes,
and the kernel's parent-death signal reaches those that compute. No torch here: ranks are started
before rank 0 imports it, so that all import at the same time.
"""

from __future__ import annotations

import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import msgpack
import numpy as np

from engine.core.messages import Fatal

Record = TypeVar("Record")

RANK_COMMAND = (sys.executable, "-m", "engine.worker.rank")

_BLAME_S = 1.0
"""An error in a collective usually means that a rank has died; the watching thread tells which."""

EndCore = Callable[[Fatal, bool], NoReturn]
"""Ends this process, after telling why. The second argument: starting again will not help."""


class Group:
    """Ranks 1 … world_size - 1."""

    def __init__(
        self,
        world_size: int,
        argv: Sequence[str],
        end_core: EndCore,
        command: Sequence[str] = RANK_COMMAND,
    ) -> None:
        self.world_size = world_size
        self._end_core = end_core
        self._is_ending = False
        self._folder = Path(tempfile.mkdtemp(prefix="autoglm-ranks-"))
        self.meeting_file = self._folder / "store"
        self._sockets: list[socket.socket] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        for rank in range(1, world_size):
            self._start(rank, [*command, "--rank", str(rank)], argv)
        threading.Thread(target=self._watch, name="ranks", daemon=True).start()

    def _start(self, rank: int, command: Sequence[str], argv: Sequence[str]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            words = [*command, "--fd", str(number), "--meeting-file", str(self.meeting_file)]
            self._processes.append(subprocess.Popen([*words, *argv], pass_fds=[number]))
        self._sockets.append(ours)

    def met(self) -> None:
        """All ranks are connected: the file where they met is not needed any more."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def tell(self, step: Any) -> None:
        """Send one step's `HostInputs` to every rank."""
        frame = pack(step)
        try:
            for sock in self._sockets:
                sock.sendall(frame)
        except OSError as error:
            self.fail(error)

    def fail(self, error: Exception) -> NoReturn:
        """End the core: the ranks are not in step any more. Names the rank that is to blame."""
        threading.Event().wait(_BLAME_S)  # the watching thread ends the process if a rank has died
        message = f"Rank 0 failed alone: {type(error).__name__}: {error}"
        self._end_core(Fatal("RankLost", message, ""), False)

    def _watch(self) -> None:
        ready, _, _ = select.select(self._sockets, [], [])
        if self._is_ending:
            return
        rank = 1 + self._sockets.index(ready[0])
        told = receive(ready[0])
        if told is None:
            self._end_core(Fatal("RankLost", self._describe_end(rank), ""), False)
        code, message, fix, is_refusal = told
        self._end_core(Fatal(code, message, fix), is_refusal)

    def _describe_end(self, rank: int) -> str:
        try:
            exit_code = self._processes[rank - 1].wait(_BLAME_S)
        except subprocess.TimeoutExpired:
            return f"Tensor-parallel rank {rank} of {self.world_size} closed its socket."
        how = f"with exit code {exit_code}"
        if exit_code < 0:
            how = f"by {signal.Signals(-exit_code).name}"
        return f"Tensor-parallel rank {rank} of {self.world_size} ended {how}."

    def end(self) -> None:
        """Nothing is left of the ranks when it returns."""
        self._is_ending = True
        shutil.rmtree(self._folder, ignore_errors=True)
        for process in self._processes:
            process.kill()  # it has nothing to save
            process.wait()


# --- what goes through a socket -----------------------------------------------------------------


def pack(step: Any) -> bytes:
    """A dataclass of arrays and numbers as a frame."""
    values = [getattr(step, field.name) for field in fields(step)]
    return frame([_array(v) if isinstance(v, np.ndarray) else v for v in values])


def _array(array: Any) -> list[Any]:
    return [array.dtype.str, list(array.shape), array.tobytes()]


def unpack(kind: type[Record], values: list[Any]) -> Record:
    """The dataclass again; its arrays are read-only."""
    return kind(*(_as_array(v) if isinstance(v, list) else v for v in values))


def _as_array(value: list[Any]) -> Any:
    dtype, shape, data = value
    return np.frombuffer(data, dtype).reshape(shape)


def frame(values: Any) -> bytes:
    body: Any = msgpack.packb(values)
    return struct.pack(">I", len(body)) + body


def receive(sock: socket.socket) -> list[Any] | None:
    """The next frame; None when the other side has closed."""
    head = _exactly(sock, 4)
    body = _exactly(sock, struct.unpack(">I", head)[0]) if head else None
    return None if body is None else msgpack.unpackb(body)


def _exactly(sock: socket.socket, count: int) -> bytes | None:
    data = bytearray()
    while len(data) < count:
        try:
            part = sock.recv(count - len(data))
        except ConnectionResetError:
            return None
        if not part:
            return None
        data += part
    return bytes(data)
