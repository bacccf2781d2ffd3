"""What the catalogues hold and what they ought to hold. Used by the command and by its test."""

from __future__ import annotations

import io
from pathlib import Path

from babel.messages.catalog import Catalog, Message
from babel.messages.extract import extract_from_dir, extract_from_file
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po as parse_po
from babel.messages.pofile import write_po as format_po

from panel.sizing.wording import SENTENCES

FOLDER = Path(__file__).parent
HEADER = """\
msgid ""
msgstr ""
"Project-Id-Version: open-autoglm-panel\\n"
"POT-Creation-Date: 2026-11-22 00:00+0000\\n"
"Language: zh_Hans_CN\\n"
"Plural-Forms: nplurals=1; plural=0;\\n"
"MIME-Version: 1.0\\n"
"Content-Type: text/plain; charset=utf-8\\n"
"Content-Transfer-Encoding: 8bit\\n"

"""
PAGES = FOLDER.parent
ROOT = FOLDER.parents[2]
KEYWORDS: dict[str, tuple[int, ...] | None] = {"_": None, "N_": None, "ngettext": (1, 2)}
OPTION_HELP: dict[str, tuple[int, ...] | None] = {"option": (2,)}
"""The help of an engine option is its second argument; the wizard shows it translated."""


def collect() -> Catalog:
    """Every text of the pages, the help of every engine option, and the notes of the sizing."""
    found = Catalog(project="open-autoglm-panel", fuzzy=False)
    for name, line, message, comments, context in extract_from_dir(
        PAGES, [("**.py", "python")], {"**.py": {}}, KEYWORDS
    ):
        found.add(message, locations=[(f"panel/ui/{name}", line)], auto_comments=comments,
                  context=context)  # fmt: skip
    options = extract_from_file("python", ROOT / "engine" / "config.py", OPTION_HELP)
    for _line, message, comments, context in options:
        found.add(message, locations=[("engine/config.py", 1)], auto_comments=comments,
                  context=context)  # fmt: skip
    for sentence in SENTENCES.values():
        found.add(sentence, locations=[("panel/sizing/wording.py", 1)])
    return found


def po_path(language: str) -> Path:
    return FOLDER / language / "LC_MESSAGES" / "panel.po"


def read_po(language: str) -> Catalog:
    with po_path(language).open("rb") as file:
        return parse_po(file, locale=language)


def write_po(language: str, catalogue: Catalog) -> None:
    """Write it sorted and without a date, so that only what changed differs."""
    body = io.BytesIO()
    format_po(
        body,
        catalogue,
        width=100,
        no_location=True,
        sort_output=True,
        omit_header=True,
        ignore_obsolete=True,
    )
    po_path(language).write_bytes(HEADER.encode() + body.getvalue())


def compiled(catalogue: Catalog) -> bytes:
    file = io.BytesIO()
    write_mo(file, catalogue)
    return file.getvalue()


def missing(catalogue: Catalog) -> list[Message]:
    """Messages without a complete, confirmed translation."""
    return [message for message in catalogue if message.id and not _is_translated(message)]


def _is_translated(message: Message) -> bool:
    strings = message.string if isinstance(message.string, (list, tuple)) else [message.string]
    return not message.fuzzy and all(strings)
