"""Bring a model here, whole or not at all.

Everything is gathered beside its final place and appears by one rename. A second caller for the
same model waits for the first and then finds it. An interrupted fetch is continued by the next.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from panel.errors import SourceError
from panel.models import hubs
from panel.models.demo import NEEDED_BYTES, fetch_demo
from panel.models.headers import read_config, read_headers
from panel.models.library import find, folder_of, partial_of
from panel.models.progress import Pace, Progress, Report
from panel.models.source import ModelSource, SourceKind
from panel.models.transfer import fetch_files, present_bytes

__all__ = ["Progress", "fetch", "find"]

SPARE_BYTES = 200_000_000
"""Left free on the disk for logs, the database and whatever else grows meanwhile."""


def fetch(source: ModelSource, models_path: Path, report: Report) -> Path:
    """The folder of a usable model, fetched if it is not here.

    Raises SourceError (hub, disk space) or ModelFolderError (damaged or incomplete files).
    """
    if source.kind is SourceKind.LOCAL:
        read_config(Path(source.name))
        read_headers(Path(source.name))
        return Path(source.name)
    try:
        with _alone(partial_of(source, models_path)):
            return find(source, models_path) or _fetch(source, models_path, report)
    except OSError as error:
        raise SourceError(
            f"{source} could not be stored in {models_path}: {error.strerror or error}",
            fix="Free space, or choose another folder by AUTOGLM_HOME.",
        ) from error


def _fetch(source: ModelSource, models_path: Path, report: Report) -> Path:
    if source.kind is SourceKind.DEMO:
        require_space(models_path, NEEDED_BYTES, source)
        return fetch_demo(models_path, report)
    return _fetch_from_hub(source, models_path, report)


def _fetch_from_hub(source: ModelSource, models_path: Path, report: Report) -> Path:
    partial, dest = partial_of(source, models_path), folder_of(source, models_path)
    found = hubs.listing(source)
    there = present_bytes(found.files, partial)
    require_space(models_path, found.num_bytes - there, source)
    pace = Pace("download", found.num_bytes, report, done_bytes=there)
    fetch_files(found.files, partial, found.headers, pace)
    report(Progress("download", found.num_bytes, found.num_bytes, "complete, checking"))
    read_headers(partial)
    origin = {"source": str(source), "endpoint": found.endpoint, "commit": found.commit}
    (partial / "origin.json").write_text(json.dumps(origin) + "\n", encoding="utf-8")
    dest.parent.mkdir(parents=True, exist_ok=True)
    partial.rename(dest)
    return dest


def require_space(models_path: Path, num_bytes: int, source: ModelSource) -> None:
    """Raises SourceError with both numbers unless the disk has room for so much more."""
    models_path.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(models_path).free
    if free < num_bytes + SPARE_BYTES:
        raise SourceError(
            f"{source} needs {(num_bytes + SPARE_BYTES) / 1e9:.1f} GB of disk; "
            f"{models_path} has {free / 1e9:.1f} GB free.",
            fix="Free space, or choose another folder by AUTOGLM_HOME.",
        )


@contextmanager
def _alone(partial: Path) -> Iterator[None]:
    """Hold this model's lock; the kernel drops it with the process, so it is never stale."""
    partial.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(partial.with_name(partial.name + ".lock"), os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
