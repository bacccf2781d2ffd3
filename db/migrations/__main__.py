"""`python -m db.migrations "Add replicas"`: write the next migration from what the models gained.

A temporary database is brought to head and compared with db/models.py. The draft is to be read and
edited by hand; tests/unit/test_db_migrations.py then compares the outcome with the models again.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from alembic import command
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from db import schema


def write_next(message: str, versions: Path = schema.MIGRATIONS / "versions") -> None:
    number = f"{len(list(versions.glob('[0-9]*.py'))) + 1:04}"
    with TemporaryDirectory() as folder:
        engine = create_engine(f"sqlite:///{folder}/empty.db", poolclass=NullPool)
        with engine.begin() as connection:
            schema.upgrade(connection)
            config = schema.alembic_config(connection)
            command.revision(config, message, autogenerate=True, rev_id=number)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit('usage: python -m db.migrations "What changes, in a few words"')
    write_next(sys.argv[1])
