"""All that is special about SQLite files: opening, locking, and what its error codes mean.

Writers take the lock at BEGIN (`BEGIN IMMEDIATE`), so that a busy database is waited for once, at
the start, and a transaction never fails half-way because somebody else wrote in between.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sqlalchemy import URL, Connection, Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection

from db.errors import (
    DatabaseDamaged,
    DatabaseError,
    DatabaseFull,
    DatabaseLocked,
    DatabaseReadOnly,
    DatabaseUnavailable,
)

BUSY_TIMEOUT_S = 10.0
WAL_KEPT_BYTES = 64 * 2**20  # the write-ahead log is cut back to this after a checkpoint
_ELSEWHERE = "or set AUTOGLM_DATABASE_URL to another place"


def file_of(url: URL) -> Path:
    """The file behind a SQLite URL, `sqlite:///file:…?uri=true` included."""
    name = url.database or ""
    if name.startswith("file:"):
        name = unquote(urlsplit(name).path)
    if name in ("", ":memory:") or url.query.get("mode") == "memory":
        raise DatabaseUnavailable(
            f"{url} keeps its tables in the memory of one process.",
            "Name a file, such as sqlite:////var/lib/autoglm/autoglm.db; panel and supervisor "
            "share it.",
        )
    return Path(name).absolute()


def make_folder(path: Path) -> None:
    """Create the folder that `path` lies in."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseUnavailable(
            f"The folder {path.parent} of the database cannot be created: {error.strerror}.",
            f"Create it, set AUTOGLM_HOME to a folder that you may write, {_ELSEWHERE}.",
        ) from error


def attach(engine: Engine, *, foreign_keys: bool = True) -> None:
    """Set up every connection of `engine`. Its option `begin` is the statement that opens a
    transaction: "BEGIN" (the default, for reading) or "BEGIN IMMEDIATE" (for writing)."""

    @event.listens_for(engine, "connect")
    def set_up(connection: DBAPIConnection, record: object) -> None:
        connection.isolation_level = None  # the driver leaves BEGIN to the listener below
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={int(BUSY_TIMEOUT_S * 1000)}")
        cursor.execute(f"PRAGMA foreign_keys={'ON' if foreign_keys else 'OFF'}")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute(f"PRAGMA journal_size_limit={WAL_KEPT_BYTES}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))


def use_wal(engine: Engine) -> None:
    """Switch the file to write-ahead logging, where readers and one writer do not wait for each
    other. It is a property of the file; one that is read-only stays as it is.

    SQLite does not wait by itself while another process makes the same switch, so this does.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    connection = engine.raw_connection()
    try:
        while True:
            try:
                connection.cursor().execute("PRAGMA journal_mode=WAL").fetchall()
            except sqlite3.OperationalError as error:
                if primary_code(error) == sqlite3.SQLITE_READONLY:
                    return
                if primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return
    finally:
        connection.close()


def primary_code(error: BaseException) -> int | None:
    """SQLite's result code without its extension, as in sqlite3.SQLITE_BUSY."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def explain(error: BaseException, path: Path) -> DatabaseError | None:
    """What an error of the driver means to a person; None for those that are our own bugs."""
    code = primary_code(error)
    if code == sqlite3.SQLITE_CANTOPEN and not _is_writable(path):
        return _read_only(f"cannot be opened, since nothing may be written in {path.parent}", path)
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return _read_only("can be read but not written", path)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return DatabaseLocked(
            f"Another program has kept the database {path} locked for {BUSY_TIMEOUT_S:.0f} s.",
            f"Close what holds it (`fuser -v {path}` names it), then try again.",
        )
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _free_bytes(path) == 0):
        return DatabaseFull(
            f"There is no room to write to the database {path}: "
            f"{_free_bytes(path) / 2**20:.0f} MiB are free on its disk.",
            f"Free some space (old models and logs first), {_ELSEWHERE}. What was saved before "
            "is safe.",
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return DatabaseDamaged(
            f"The file {path} is damaged or is no SQLite database ({error}).",
            f"Stop everything that uses it, keep a copy, then try `sqlite3 {path} .recover` or "
            f"restore a backup, {_ELSEWHERE}. The file was not changed.",
        )
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOLFS):
        return DatabaseUnavailable(
            f"The database {path} cannot be opened or read ({error}).",
            f"Check that {path} is a file on a working disk and that this user may open it, "
            f"{_ELSEWHERE}.",
        )
    return None


def _read_only(what: str, path: Path) -> DatabaseReadOnly:
    return DatabaseReadOnly(
        f"The database {path} {what}.",
        f"Give this user write access to the file and to its folder {path.parent}, make the file "
        f"system writable, {_ELSEWHERE}. Nothing was changed.",
    )


def _is_writable(path: Path) -> bool:
    """Whether the file, if it is there, and its folder may be written: SQLite keeps -wal and -shm
    files beside it, also for reading."""
    may_write = os.access(path, os.W_OK) or not path.exists()
    return may_write and os.access(path.parent, os.W_OK)


def _free_bytes(path: Path) -> int:
    try:
        return shutil.disk_usage(path.parent).free
    except OSError:
        return 0
