"""The one place where a page shows what went wrong: what happened, with numbers, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from db.errors import DatabaseError, DatabaseReadOnly
from engine.errors import ConfigError, EngineError
from panel.errors import (
    DoesNotFit,
    ModelFolderError,
    NotFound,
    PanelError,
    PortInUse,
    ServerError,
    ServerUnreachable,
    SourceError,
)
from panel.ui.i18n import N_, _

Problem = PanelError | DatabaseError | EngineError

TITLES: tuple[tuple[type[Exception], str], ...] = (
    (DatabaseReadOnly, N_("The database is read-only")),
    (DatabaseError, N_("The database cannot be used")),
    (DoesNotFit, N_("Does not fit")),
    (PortInUse, N_("The port is in use")),
    (SourceError, N_("This model cannot be found")),
    (ModelFolderError, N_("This folder is not a usable model")),
    (ConfigError, N_("An option has a wrong value")),
    (ServerUnreachable, N_("The engine does not answer")),
    (ServerError, N_("The engine refused the request")),
    (NotFound, N_("Not found")),
)


def title_of(problem: Problem) -> str:
    """The kind of the problem in the reader's language."""
    for kind, title in TITLES:
        if isinstance(problem, kind):
            return _(title)
    return _("Something went wrong")


def problem_of(code: str, message: str, fix: str) -> PanelError:
    """A problem that was stored, with the class that its code names."""
    kinds = (kind for kind, _title in TITLES if issubclass(kind, PanelError) and kind.code == code)
    return next(kinds, PanelError)(message, fix=fix)


def show(problem: Problem) -> None:
    """Draw the problem and its fix."""
    st.error(problem.message, title=title_of(problem), icon=":material/error:")
    if problem.fix:
        with st.container(horizontal=True, gap="xsmall"):
            st.markdown(f":material/build: {problem.fix}")


@contextmanager
def shown() -> Iterator[None]:
    """Show a problem that a person can cure where it happens, and draw the rest of the page."""
    try:
        yield
    except (PanelError, DatabaseError, EngineError) as problem:
        show(problem)
