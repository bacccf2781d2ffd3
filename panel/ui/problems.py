"""The one place where a page shows what went wrong: what happened, with numbers, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from db.errors import DatabaseError
from engine.errors import EngineError
from panel.errors import PanelError
from panel.ui.i18n import N_, _
from panel.ui.sentences import in_words

Problem = PanelError | DatabaseError | EngineError

TITLES = {
    "database_read_only": N_("The database is read-only"),
    "database": N_("The database cannot be used"),
    "not_found": N_("Not found"),
    "does_not_fit": N_("Does not fit"),
    "port_in_use": N_("The port is in use"),
    "cannot_listen": N_("The address cannot be used"),
    "no_space": N_("The disk is too full"),
    "source_unreachable": N_("The model hub cannot be reached"),
    "model_source": N_("This model cannot be found"),
    "model_folder": N_("This folder is not a usable model"),
    "server_unreachable": N_("The engine does not answer"),
    "server": N_("The engine refused the request"),
    "context_length_exceeded": N_("Too long for this deployment"),
    "engine_starting": N_("The engine is still starting"),
    "engine_stopping": N_("The engine is stopping"),
    "engine_dead": N_("The engine has ended"),
    "engine_stalled": N_("The engine is stuck"),
    "rate_limit_exceeded": N_("The engine is busy"),
    "deadline_exceeded": N_("The answer took too long"),
    "invalid_api_key": N_("The engine does not accept the key"),
    "ModelTooLarge": N_("The model does not fit the device"),
    "UnsupportedModel": N_("The engine does not run this kind of model"),
    "ModelError": N_("The model's files cannot be used"),
    "ConfigError": N_("An option has a wrong value"),
    "killed": N_("The engine was killed"),
    "exited": N_("The engine ended by itself"),
    "ended": N_("The engine ended by itself"),
    "deadline": N_("A stage took too long"),
    "hung": N_("The engine stopped answering"),
    "no_first_token": N_("The engine gives no token"),
    "prepare_ended": N_("The model could not be prepared"),
    "cannot_start": N_("The engine cannot be started"),
}
"""What happened, by the stable code of an error or of a stored cause."""

UNKNOWN = N_("Something went wrong")


def codes_of(problem: BaseException) -> Iterator[str]:
    """The problem's own code, then those of the kinds it belongs to, from the narrowest."""
    reason = getattr(problem, "reason", None)
    if reason:
        yield reason
    for kind in type(problem).__mro__:
        yield vars(kind).get("code") or kind.__name__


def code_of(problem: Problem) -> str:
    """The narrowest of its codes that has a title; `error` where none has."""
    return next((code for code in codes_of(problem) if code in TITLES), "error")


def title_of(code: str) -> str:
    """The kind of the problem in the reader's language."""
    return _(TITLES.get(code, UNKNOWN))


def show(problem: Problem) -> None:
    """Draw the problem and its fix."""
    show_told(code_of(problem), problem.message, problem.fix)


def show_told(code: str, message: str, fix: str) -> None:
    """Draw a problem that was stored by its code and its English sentences."""
    st.error(in_words(message), title=title_of(code), icon=":material/error:")
    if fix:
        st.markdown(f":material/build: {in_words(fix)}")


@contextmanager
def shown() -> Iterator[None]:
    """Show a problem that a person can cure where it happens, and draw the rest of the page."""
    try:
        yield
    except (PanelError, DatabaseError, EngineError) as problem:
        show(problem)
