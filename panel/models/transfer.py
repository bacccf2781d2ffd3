"""Files over HTTP into a folder: resumed where a kill left them, checked, several at a time.

A file grows as NAME.part and is renamed when its size and hash are right, so a file with its own
name is whole. The hubs' own libraries list files and know accounts; the bytes are moved here
because huggingface_hub 2.x begins a broken file again from nothing in the next process.

Retries: a broken connection 3 times, waiting 1, 2, 4 s; 503 twice, 2 s apart; other answers never.
Progress made in between starts the count anew.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from panel.errors import SourceError
from panel.models.progress import Pace

PARALLEL_FILES = 4
_NETWORK_WAITS_S = (1.0, 2.0, 4.0)
_BUSY_WAITS_S = (2.0, 2.0)
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a hub. sha256 is None where the hub keeps no such hash (small text files)."""

    path: str
    num_bytes: int
    url: str
    sha256: str | None = None


class _Busy(Exception):
    """The server answered 503."""


def client_for(headers: Mapping[str, str]) -> httpx.Client:
    """A client that follows redirects; the account's header stays with the hub's own host."""
    plain = {**headers, "accept-encoding": "identity"}  # sizes and offsets are those of the file
    return httpx.Client(headers=plain, follow_redirects=True, timeout=_TIMEOUT)


def present_bytes(files: Sequence[RemoteFile], folder: Path) -> int:
    """How much of these files lies in the folder already, half ones included."""
    paths = [path for f in files for path in (folder / f.path, _part(folder / f.path))]
    return sum(path.stat().st_size for path in paths if path.is_file())


def fetch_files(
    files: Sequence[RemoteFile],
    folder: Path,
    headers: Mapping[str, str],
    pace: Pace,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Bring all files into the folder. Raises SourceError; what arrived stays for the next try."""
    folder.mkdir(parents=True, exist_ok=True)
    with client_for(headers) as client, ThreadPoolExecutor(PARALLEL_FILES) as pool:
        job = _Job(client, folder, pace, sleep)
        waiting = [pool.submit(job.fetch, file) for file in files]
        try:
            for future in as_completed(waiting):
                future.result()
        finally:
            job.stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _Job:
    """What the threads of one fetch share. stopped: one failed, or the person gave up."""

    client: httpx.Client
    folder: Path
    pace: Pace
    sleep: Callable[[float], None]
    stopped: threading.Event = field(default_factory=threading.Event)

    def fetch(self, file: RemoteFile) -> None:
        """Bring one file here, over as many requests as it takes.

        One that an earlier try left here is hashed again: meanwhile the branch may have moved to
        other weights of the same size, and two commits must not be mixed.
        """
        target = self.folder / file.path
        if target.is_file():
            if _fault(target, file) is None:
                return
            self.pace.add(-target.stat().st_size)
            target.unlink()
        part, failures, busy = _part(target), 0, 0
        while not self.stopped.is_set() and (_size(part) < file.num_bytes or not part.exists()):
            before = _size(part)
            try:
                self._append(file, part)
            except _Busy:
                busy += 1
                if busy > len(_BUSY_WAITS_S):
                    raise _unavailable(file) from None
                self.sleep(_BUSY_WAITS_S[busy - 1])
            except httpx.TransportError as error:
                failures = 1 if _size(part) > before else failures + 1
                if failures > len(_NETWORK_WAITS_S):
                    raise _broken(file, error) from error
                self.sleep(_NETWORK_WAITS_S[failures - 1])
        if not self.stopped.is_set():
            _check(part, file, self.pace)
            part.rename(target)

    def _append(self, file: RemoteFile, part: Path) -> None:
        """One request: write the missing rest of the file behind what is there."""
        offset = _size(part)
        wanted = {"Range": f"bytes={offset}-"} if offset else {}
        with self.client.stream("GET", file.url, headers=wanted) as answer:
            _require_ok(answer, file)
            if offset and not _continues_at(answer, offset):
                self.pace.add(-offset)
                part.unlink()
            with part.open("ab", buffering=0) as out:  # a kill loses nothing
                for chunk in answer.iter_raw():
                    out.write(chunk)
                    self.pace.add(len(chunk))
                    if self.stopped.is_set():
                        return
        if _size(part) < file.num_bytes:
            raise httpx.RemoteProtocolError(f"ended after {_size(part)} of {file.num_bytes} bytes")


def _require_ok(answer: httpx.Response, file: RemoteFile) -> None:
    if answer.status_code == 503:
        raise _Busy
    if answer.status_code in (200, 206):
        return
    raise SourceError(
        f"{_host(file)} answered {answer.status_code} for {file.path}.",
        fix=_FIXES.get(answer.status_code, "Try again later, or take another source."),
    )


_FIXES = {
    401: "Set HF_TOKEN (or MODELSCOPE_API_TOKEN) to a token of your account.",
    403: "Accept the model's licence on its page and set HF_TOKEN to a token of that account.",
    404: "Check the model id and the revision.",
    416: "Delete the half file and try again.",
    429: "The hub asks for fewer requests: wait some minutes, or set a token.",
}


def _continues_at(answer: httpx.Response, offset: int) -> bool:
    """Whether the server honoured the Range; a server that does not sends all of it again."""
    said = answer.headers.get("content-range", "")
    return answer.status_code == 206 and said.startswith(f"bytes {offset}-")


def _check(part: Path, file: RemoteFile, pace: Pace) -> None:
    """Compare size and hash; a wrong file is removed, so that the next try begins anew."""
    fault = _fault(part, file)
    if fault is None:
        return
    pace.add(-_size(part))
    part.unlink()
    raise SourceError(
        f"{file.path} arrived damaged ({fault}).",
        fix="Try again; if it stays so, a proxy between here and the hub changes files.",
    )


def _fault(path: Path, file: RemoteFile) -> str | None:
    """What differs from the hub's file: its size or its hash; None where neither does."""
    if (size := _size(path)) != file.num_bytes:
        return f"{size} bytes of {file.num_bytes}"
    if file.sha256 is None:
        return None
    with path.open("rb") as data:
        digest = hashlib.file_digest(data, "sha256").hexdigest()
    return None if digest == file.sha256 else f"sha256 {digest}"


def _part(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _host(file: RemoteFile) -> str:
    return httpx.URL(file.url).host


def _unavailable(file: RemoteFile) -> SourceError:
    return SourceError(
        f"{_host(file)} is overloaded (503, {len(_BUSY_WAITS_S) + 1} times).",
        fix="Try again later; what has arrived is kept.",
    )


def _broken(file: RemoteFile, error: httpx.TransportError) -> SourceError:
    return SourceError(
        f"The connection to {_host(file)} broke {len(_NETWORK_WAITS_S) + 1} times: {error}",
        fix="Check the network and start again; what has arrived is kept.",
    )
