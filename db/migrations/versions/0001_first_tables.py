"""The first tables: machines, deployments with attempts, stages, events and log lines, and chats.

Revision 0001, after nothing.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# SQLite only: an index over the trigrams of log_lines.text. It keeps no copy of the text (external
# content), so three triggers tell it of every change.
FULL_TEXT_INDEX = (
    "CREATE VIRTUAL TABLE log_lines_fts USING fts5("
    "text, content='log_lines', content_rowid='id', tokenize='trigram')",
    """
    CREATE TRIGGER log_lines_fts_insert AFTER INSERT ON log_lines BEGIN
        INSERT INTO log_lines_fts (rowid, text) VALUES (new.id, new.text);
    END
    """,
    """
    CREATE TRIGGER log_lines_fts_delete AFTER DELETE ON log_lines BEGIN
        INSERT INTO log_lines_fts (log_lines_fts, rowid, text) VALUES ('delete', old.id, old.text);
    END
    """,
    """
    CREATE TRIGGER log_lines_fts_update AFTER UPDATE OF id, text ON log_lines BEGIN
        INSERT INTO log_lines_fts (log_lines_fts, rowid, text) VALUES ('delete', old.id, old.text);
        INSERT INTO log_lines_fts (rowid, text) VALUES (new.id, new.text);
    END
    """,
)


def upgrade() -> None:
    op.create_table(
        "machines",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("fingerprint", sa.String, nullable=False, unique=True),
        sa.Column("hostname", sa.String, nullable=False),
        sa.Column("facts", sa.JSON, nullable=False),
        sa.Column("first_seen_at", sa.DateTime, nullable=False),
        sa.Column("last_seen_at", sa.DateTime, nullable=False),
    )
    op.create_table(
        "supervisor",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("started_at", sa.DateTime, nullable=False),
        sa.Column("beat_at", sa.DateTime, nullable=False),
    )
    op.create_table(
        "deployments",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("plan", sa.JSON, nullable=False),
        sa.Column("machine_id", sa.Integer, sa.ForeignKey("machines.id")),
        sa.Column("predicted", sa.JSON),
        sa.Column("desired", sa.String(16), nullable=False, index=True),
        sa.Column("state", sa.String(16), nullable=False, index=True),
        sa.Column("endpoint", sa.String),
        sa.Column("api_key_file", sa.String),
        sa.Column("restarts", sa.Integer, nullable=False),
        sa.Column("next_attempt_at", sa.DateTime),
        sa.Column("note", sa.String, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False, index=True),
        sa.Column("updated_at", sa.DateTime, nullable=False),
    )
    op.create_table(
        "attempts",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("deployment_id", sa.String, _owner("deployments.id"), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("argv", sa.JSON),
        sa.Column("environment", sa.JSON),
        sa.Column("pid", sa.Integer),
        sa.Column("pid_started_at", sa.Double),
        sa.Column("port", sa.Integer),
        sa.Column("log_path", sa.String),
        sa.Column("log_offset", sa.Integer, nullable=False),
        sa.Column("outcome", sa.String(16)),
        sa.Column("exit_code", sa.Integer),
        sa.Column("cause", sa.JSON),
        sa.Column("measured", sa.JSON),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("ready_at", sa.DateTime),
        sa.Column("ended_at", sa.DateTime),
        sa.Index(None, "deployment_id", "number", unique=True),
    )
    op.create_table(
        "stages",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("attempt_id", sa.Integer, _owner("attempts.id"), nullable=False),
        sa.Column("name", sa.String(16), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("progress", sa.Double),
        sa.Column("detail", sa.String, nullable=False),
        sa.Column("deadline_s", sa.Double, nullable=False),
        sa.Column("started_at", sa.DateTime),
        sa.Column("ended_at", sa.DateTime),
        sa.Index(None, "attempt_id", "name", unique=True),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("deployment_id", sa.String, _owner("deployments.id"), nullable=False),
        sa.Column("attempt_id", sa.Integer, _owner("attempts.id"), index=True),
        sa.Column("at", sa.DateTime, nullable=False),
        sa.Column("actor", sa.String, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("message", sa.String, nullable=False),
        sa.Column("data", sa.JSON),
        sa.Index(None, "deployment_id", "id"),
    )
    op.create_table(
        "log_lines",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("deployment_id", sa.String, _owner("deployments.id"), nullable=False),
        sa.Column("attempt_id", sa.Integer, _owner("attempts.id"), index=True),
        sa.Column("at", sa.DateTime, nullable=False),
        sa.Column("level", sa.String, nullable=False),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("text", sa.String, nullable=False),
        sa.Index(None, "deployment_id", "id"),
    )
    op.create_table(
        "chats",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column(
            "deployment_id",
            sa.String,
            sa.ForeignKey("deployments.id", ondelete="SET NULL"),
            index=True,
        ),
        sa.Column("title", sa.String, nullable=False),
        sa.Column("system_prompt", sa.String, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("updated_at", sa.DateTime, nullable=False),
    )
    op.create_table(
        "chat_messages",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("chat_id", sa.String, _owner("chats.id"), nullable=False, index=True),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("content", sa.String, nullable=False),
        sa.Column("figures", sa.JSON),
        sa.Column("created_at", sa.DateTime, nullable=False),
    )
    if op.get_context().dialect.name == "sqlite":
        for statement in FULL_TEXT_INDEX:
            op.execute(statement)


def downgrade() -> None:
    """Back to an empty database."""
    if op.get_context().dialect.name == "sqlite":
        op.execute("DROP TABLE log_lines_fts")
    for name in (
        "chat_messages",
        "chats",
        "log_lines",
        "events",
        "stages",
        "attempts",
        "deployments",
        "supervisor",
        "machines",
    ):
        op.drop_table(name)


def _owner(column: str) -> sa.ForeignKey:
    """A foreign key whose row goes when the row it belongs to goes."""
    return sa.ForeignKey(column, ondelete="CASCADE")
