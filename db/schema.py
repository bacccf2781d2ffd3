"""The version of the tables: what a database has, what this code needs, and the way between.

Migrations are found beside this file, also in an installed package; no alembic.ini is needed.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from db.errors import DatabaseTooNew, DatabaseUnavailable
from db.models import Base

MIGRATIONS = Path(__file__).with_name("migrations")


def alembic_config(connection: Connection | None = None) -> Config:
    """Alembic's settings; env.py works on `connection`, which the caller commits."""
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def head() -> str:
    """The revision that this code needs."""
    revision = ScriptDirectory.from_config(alembic_config()).get_current_head()
    assert revision is not None, f"no migrations in {MIGRATIONS}"
    return revision


def is_current(connection: Connection, place: str) -> bool:
    """Whether the tables are those of this code. Raises for a database that is not ours to change.

    place: the database as a person knows it, for the error.
    """
    revision = MigrationContext.configure(connection).get_current_revision()
    if revision is None:
        _refuse_foreign_tables(connection, place)
        return False
    known = {r.revision for r in ScriptDirectory.from_config(alembic_config()).walk_revisions()}
    if revision not in known:
        raise DatabaseTooNew(
            f"The database {place} has version {revision}; this program knows versions up to "
            f"{head()}.",
            "Update Open-AutoGLM Panel to the version that wrote it, or use another database. "
            "Nothing was changed.",
        )
    return revision == head()


def upgrade(connection: Connection) -> None:
    """Bring the tables to head within the caller's transaction: all of it happens or none."""
    command.upgrade(alembic_config(connection), "head")


def _refuse_foreign_tables(connection: Connection, place: str) -> None:
    ours = set(Base.metadata.tables) & set(inspect(connection).get_table_names())
    if ours:
        raise DatabaseUnavailable(
            f"The database {place} already has tables named {', '.join(sorted(ours))} that this "
            "program did not make.",
            "Use another database. Nothing was changed.",
        )
