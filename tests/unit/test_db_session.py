"""The database opens, or says in words why not, and never harms the file."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from db import machines, schema, sqlite
from db.errors import (
    DatabaseDamaged,
    DatabaseFull,
    DatabaseLocked,
    DatabaseReadOnly,
    DatabaseTooNew,
    DatabaseUnavailable,
)
from db.session import Database

FACTS = {"name": "一台机器"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "autoglm.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{path}")
    opened.migrate()
    yield opened
    opened.close()


def remember(database: Database, fingerprint: str = "f") -> None:
    with database.begin() as s:
        machines.remember(s, fingerprint=fingerprint, hostname="h", facts=FACTS)


def newest_fingerprint(database: Database) -> str:
    with database.read() as s:
        machine = machines.newest(s)
        assert machine is not None
        return machine.fingerprint


def execute(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()


def test_the_folder_and_the_tables_are_made_and_making_them_again_changes_nothing(
    database: Database, path: Path
) -> None:
    remember(database)
    database.migrate()
    assert newest_fingerprint(database) == "f"
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_every_connection_checks_foreign_keys_and_waits_for_the_lock(database: Database) -> None:
    with database.read() as s:
        assert s.connection().exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert s.connection().exec_driver_sql("PRAGMA busy_timeout").scalar() == 10_000


def test_an_error_inside_a_session_rolls_everything_back(database: Database) -> None:
    def remember_and_fail() -> None:
        with database.begin() as s:
            machines.remember(s, fingerprint="lost", hostname="h", facts=FACTS)
            raise InterruptedError

    remember(database, "kept")
    with pytest.raises(InterruptedError):
        remember_and_fail()
    assert newest_fingerprint(database) == "kept"


def test_a_session_for_reading_refuses_to_write(database: Database) -> None:
    with pytest.raises(AssertionError, match="for reading"), database.read() as s:
        machines.remember(s, fingerprint="f", hostname="h", facts=FACTS)


def test_chinese_is_stored_as_itself(database: Database, path: Path) -> None:
    remember(database)
    with closing(sqlite3.connect(path)) as connection:
        assert "一台机器" in connection.execute("SELECT facts FROM machines").fetchone()[0]


def test_many_threads_write_at_once_and_none_is_refused(database: Database) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: remember(database, f"f{i}"), range(64)))
    with database.read() as s:
        assert s.connection().exec_driver_sql("SELECT count(*) FROM machines").scalar() == 64


def test_processes_that_start_together_migrate_once(path: Path) -> None:
    code = "import sys; from db.session import Database; Database(sys.argv[1]).migrate()"
    command = [sys.executable, "-W", "error", "-c", code, f"sqlite:///{path}"]
    started = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    ends = [(process.communicate()[1], process.returncode) for process in started]
    assert ends == [("", 0)] * 4
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    assert rows == [(schema.head(),)]


def test_a_failed_migration_leaves_nothing_behind(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(connection: object) -> None:
        upgrade(connection)  # type: ignore[arg-type]  # the real one, then the accident
        raise KeyboardInterrupt

    upgrade = schema.upgrade
    monkeypatch.setattr(schema, "upgrade", fails)
    with pytest.raises(KeyboardInterrupt):
        Database(f"sqlite:///{path}").migrate()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []


def test_a_read_only_database_is_read_and_refuses_writes_by_name(
    database: Database, path: Path
) -> None:
    remember(database)
    database.close()
    content = path.read_bytes()
    read_only = Database(f"sqlite:///file:{path}?mode=ro&uri=true")
    read_only.migrate()  # the tables are current: nothing to do
    assert newest_fingerprint(read_only) == "f"
    with pytest.raises(DatabaseReadOnly, match=str(path)) as caught:
        remember(read_only, "g")
    assert "write access" in caught.value.fix
    assert path.read_bytes() == content
    read_only.close()


def test_a_read_only_database_without_tables_cannot_be_migrated(path: Path) -> None:
    path.parent.mkdir()
    execute(path, "VACUUM")
    execute(path, "CREATE TABLE something (x)")
    with pytest.raises(DatabaseReadOnly):
        Database(f"sqlite:///file:{path}?mode=ro&uri=true").migrate()


def test_a_file_that_this_user_may_not_write_is_read_only(database: Database, path: Path) -> None:
    remember(database)
    database.close()
    for folder in path.parents:  # root writes anywhere, so the child becomes nobody: let it look in
        if os.geteuid() == 0 and "pytest-of-root" in str(folder):
            folder.chmod(0o755)
    path.chmod(0o444)
    path.parent.chmod(0o555)
    try:
        said = _said_by_nobody(path)
    finally:
        path.parent.chmod(0o755)
    assert said.startswith("DatabaseReadOnly"), said


def _said_by_nobody(path: Path) -> str:
    """The error that a user without rights gets, from a process of its own."""
    code = (
        "import os, sys\n"
        "from db import machines; from db.session import Database\n"
        "database = Database(sys.argv[1])\n"
        "if os.geteuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try:\n"
        "    with database.begin() as s:\n"
        "        machines.remember(s, fingerprint='g', hostname='h', facts={})\n"
        "except Exception as error: sys.stdout.write(type(error).__name__ + str(error))\n"
    )
    command = [sys.executable, "-c", code, f"sqlite:///{path}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_full_disk_is_named_and_what_was_saved_stays(database: Database) -> None:
    def write_much() -> None:
        with database.begin() as s:
            pages = s.connection().exec_driver_sql("PRAGMA page_count").scalar()
            s.connection().exec_driver_sql(f"PRAGMA max_page_count={pages}")  # SQLite's own limit
            machines.remember(s, fingerprint="g", hostname="h" * 100_000, facts=FACTS)

    remember(database)
    with pytest.raises(DatabaseFull, match="no room") as caught:
        write_much()
    assert "safe" in caught.value.fix
    assert newest_fingerprint(database) == "f"


def test_a_locked_database_is_waited_for_and_then_named(
    database: Database, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.close()
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.05)
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseLocked, match=str(path)):
            remember(database)
        other.rollback()
    remember(database)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here first")
    with pytest.raises(DatabaseUnavailable, match="cannot be created"):
        Database(f"sqlite:///{tmp_path}/file/autoglm.db").migrate()
    assert (tmp_path / "file").read_text() == "here first"


def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match="cannot be opened"):
        Database(f"sqlite:///{tmp_path}").migrate()


@pytest.mark.parametrize("content", [b"not a database\n" * 100, b"SQLite format 3\x00garbage" * 99])
def test_a_file_that_is_no_database_is_left_alone(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(DatabaseDamaged, match=str(path)):
        Database(f"sqlite:///{path}").migrate()
    assert path.read_bytes() == content


def test_a_damaged_page_is_named(database: Database, path: Path) -> None:
    remember(database)
    database.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(DatabaseDamaged, match="damaged"):
        newest_fingerprint(database)
    assert path.read_bytes() == content


def test_a_database_of_a_newer_program_is_left_alone(database: Database, path: Path) -> None:
    execute(path, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(DatabaseTooNew, match="9999") as caught:
        database.migrate()
    assert "Update" in caught.value.fix


def test_tables_of_another_program_are_left_alone(path: Path) -> None:
    path.parent.mkdir()
    execute(path, "CREATE TABLE deployments (theirs)")
    with pytest.raises(DatabaseUnavailable, match="did not make"):
        Database(f"sqlite:///{path}").migrate()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", "cannot be understood"),
        ("sqlite://", "memory of one process"),
        ("sqlite:///:memory:", "memory of one process"),
        ("nosuchdb://host/x", "No driver"),
    ],
)
def test_a_url_that_cannot_work_is_refused_at_once(url: str, said: str) -> None:
    with pytest.raises(DatabaseUnavailable, match=said):
        Database(url)


def test_a_password_in_a_url_is_never_shown() -> None:
    with pytest.raises(DatabaseUnavailable) as caught:
        Database("nosuchdb://me:secret@host/x")
    assert "secret" not in str(caught.value)
