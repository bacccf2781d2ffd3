"""A sizing note in the reader's language; the English sentences are the command line's own."""

from __future__ import annotations

from panel.sizing.fit import Note
from panel.sizing.wording import SENTENCES
from panel.ui.i18n import _


def said(note: Note) -> str:
    values = dict(note.values)
    if "num_params" in values:
        values["billions"] = values["num_params"] / 1e9
    return _(SENTENCES[note.code]).format(**values)
