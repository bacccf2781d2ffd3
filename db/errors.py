"""The database's exceptions: each names the database, says what happened and what to do about it.

DatabaseError
 ├─ DatabaseUnavailable      it cannot be opened or reached
 │   ├─ DatabaseLocked           another program has held it for longer than we wait
 │   ├─ DatabaseFull             the disk has no room; what was committed before is safe
 │   ├─ DatabaseDamaged          the file is not a database, or its pages are broken
 │   └─ DatabaseTooNew           a newer version of this program has written it
 ├─ DatabaseReadOnly         it can be read; nothing can be written
 ├─ NoSuchRow                no deployment, attempt, chat … has this id
 └─ StillActive              a deployment must be stopped before it is deleted

The files are never deleted, replaced or truncated by this package, whatever happened to them.
"""

from __future__ import annotations


class DatabaseError(Exception):
    """Something a person can cause or cure. `fix` says what to do; `code` is stable for --json."""

    code = "database"

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message} {self.fix}".strip()


class DatabaseUnavailable(DatabaseError):
    code = "database_unavailable"


class DatabaseLocked(DatabaseUnavailable):
    code = "database_locked"


class DatabaseFull(DatabaseUnavailable):
    code = "database_full"


class DatabaseDamaged(DatabaseUnavailable):
    code = "database_damaged"


class DatabaseTooNew(DatabaseUnavailable):
    code = "database_too_new"


class DatabaseReadOnly(DatabaseError):
    code = "database_read_only"


class NoSuchRow(DatabaseError):
    code = "not_found"


class StillActive(DatabaseError):
    code = "still_active"
