"""The migrations lead to the tables of the models, forth and back, from any working directory."""

from __future__ import annotations

import io
import sqlite3
from contextlib import closing
from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.pool import NullPool

from db import schema
from db.fulltext import is_index_table
from db.models import Base


def engine(tmp_path: Path) -> Engine:
    return create_engine(f"sqlite:///{tmp_path}/a.db", poolclass=NullPool)


def include_name(name: str | None, kind: str, parents: object) -> bool:
    return not (kind == "table" and is_index_table(name))


def differences(connection: Connection) -> list[object]:
    options = {"include_name": include_name, "compare_type": True}
    context = MigrationContext.configure(connection, opts=options)
    return compare_metadata(context, Base.metadata)


def test_the_migrations_make_exactly_the_tables_of_the_models(tmp_path: Path) -> None:
    with engine(tmp_path).begin() as connection:
        schema.upgrade(connection)
        assert differences(connection) == []


def test_the_names_of_constraints_and_indexes_are_those_of_the_models(tmp_path: Path) -> None:
    with engine(tmp_path).begin() as connection:
        schema.upgrade(connection)
    with create_engine(f"sqlite:///{tmp_path}/b.db", poolclass=NullPool).begin() as connection:
        Base.metadata.create_all(connection)
    assert _made(tmp_path / "a.db") == _made(tmp_path / "b.db")


def _made(path: Path) -> dict[str, set[str]]:
    """Every statement that made a table or an index, as a set of its lines."""
    query = "SELECT name, sql FROM sqlite_master WHERE type IN ('table', 'index') AND sql NOT NULL"
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(query).fetchall()
    return {
        name: {line.strip(" ,\t") for line in sql.splitlines()}
        for name, sql in rows
        if not is_index_table(name) and name != "alembic_version"
    }


def test_the_way_back_leaves_an_empty_database(tmp_path: Path) -> None:
    with engine(tmp_path).begin() as connection:
        schema.upgrade(connection)
        command.downgrade(schema.alembic_config(connection), "base")
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        names = connection.execute("SELECT name FROM sqlite_master").fetchall()
    assert set(names) <= {("alembic_version",), ("sqlite_autoindex_alembic_version_1",)}


def test_other_databases_get_the_same_tables_without_the_sqlite_index() -> None:
    config = schema.alembic_config()
    config.attributes["dialect_name"] = "postgresql"
    config.output_buffer = io.StringIO()
    command.upgrade(config, "head", sql=True)
    sql = config.output_buffer.getvalue()
    assert all(f"CREATE TABLE {name}" in sql for name in Base.metadata.tables)
    assert "fts" not in sql
