"""The history of the tables, one file a step, run by Alembic. See db/README.md."""
