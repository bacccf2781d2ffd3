"""Run by Alembic for every command, on the connection that db.schema hands over."""

from __future__ import annotations

from alembic import context

from db.fulltext import is_index_table
from db.models import Base


def _include_name(name: str | None, kind: str, parents: object) -> bool:
    return not (kind == "table" and is_index_table(name))


context.configure(
    connection=context.config.attributes["connection"],
    dialect_name=context.config.attributes.get("dialect_name"),  # for SQL text without a database
    target_metadata=Base.metadata,
    include_name=_include_name,
    render_as_batch=True,  # SQLite cannot alter columns in place
    transactional_ddl=True,  # SQLite can, since we begin transactions ourselves
)
with context.begin_transaction():
    context.run_migrations()
