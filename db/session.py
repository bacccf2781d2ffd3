"""The database: opened by URL, migrated, and given out as short sessions.

A writing session takes the write lock when it starts, so keep it to a few rows and never hold it
across a network call. Rows stay readable after their session has closed; what is not loaded by
then stays unloaded, so each repository says what it loads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import NullPool

from db import schema, sqlite
from db.errors import DatabaseError, DatabaseUnavailable

_dumps = partial(json.dumps, ensure_ascii=False)


class Database:
    """One database. Nothing is opened before the first use; any thread may use it."""

    def __init__(self, url: str) -> None:
        try:
            self.url = make_url(url)
        except ArgumentError as error:
            raise DatabaseUnavailable(
                "The database URL cannot be understood.",  # not shown: it may hold a password
                "Write one such as sqlite:////path/to/autoglm.db.",
            ) from error
        self.path: Path | None = None
        if self.url.get_backend_name() == "sqlite":
            self.path = sqlite.file_of(self.url)
        self._engine = self._create_engine()
        writer = self._engine.execution_options(begin="BEGIN IMMEDIATE")
        self._writing = sessionmaker(writer, expire_on_commit=False)
        self._reading = sessionmaker(self._engine, expire_on_commit=False, autoflush=False)
        event.listen(self._reading, "before_flush", _refuse_to_write)

    @property
    def place(self) -> str:
        """The database as a person knows it, without a password."""
        return str(self.path or self.url.render_as_string(hide_password=True))

    def migrate(self) -> None:
        """Create or upgrade the tables. Any number of processes may call this at once: one does it,
        the others wait. A read-only database whose tables are current is left as it is."""
        with self._explained():
            if self.path is not None:
                sqlite.make_folder(self.path)
            engine = self._create_engine(for_migration=True)
            try:
                with engine.connect() as connection:
                    is_current = schema.is_current(connection, self.place)
                if self.path is not None:
                    sqlite.use_wal(engine)
                if not is_current:
                    self._upgrade(engine)
            finally:
                engine.dispose()

    def _upgrade(self, engine: Engine) -> None:
        with engine.execution_options(begin="BEGIN IMMEDIATE").begin() as connection:
            if not schema.is_current(connection, self.place):  # nobody was faster
                schema.upgrade(connection)

    @contextmanager
    def begin(self) -> Iterator[Session]:
        """A session that may write: commits at the end, or rolls everything back on an error."""
        with self._explained(), self._writing.begin() as session:
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session for reading only; all its queries see the same moment."""
        with self._explained(), self._reading() as session:
            yield session

    def close(self) -> None:
        self._engine.dispose()

    def _create_engine(self, *, for_migration: bool = False) -> Engine:
        """An engine for use, or one without pool and foreign keys, which moving tables needs."""
        pool = {"poolclass": NullPool} if for_migration else {"max_overflow": -1}
        try:
            engine = create_engine(self.url, json_serializer=_dumps, **pool)
        except (NoSuchModuleError, ModuleNotFoundError) as error:
            raise DatabaseUnavailable(
                f"No driver for {self.url.drivername} databases is installed ({error}).",
                "Install the driver with pip, or use SQLite.",
            ) from error
        if self.path is not None:
            sqlite.attach(engine, foreign_keys=not for_migration)
        return engine

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn the driver's errors that a person can cure into ours; bugs pass unchanged."""
        try:
            yield
        except DBAPIError as error:
            explanation = self._explain(error)
            if explanation is None:
                raise
            raise explanation from error

    def _explain(self, error: DBAPIError) -> DatabaseError | None:
        if self.path is not None:
            return sqlite.explain(error.orig, self.path) if error.orig else None
        if isinstance(error, OperationalError):
            return DatabaseUnavailable(
                f"The database {self.place} does not answer: {error.orig}.",
                "Check that its server runs and that the URL, name and password are right.",
            )
        return None


def _refuse_to_write(session: Session, *_: object) -> None:
    raise AssertionError(f"a write in a session for reading: {session.new or session.dirty}")
