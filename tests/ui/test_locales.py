"""The catalogues are complete, compiled, and see every text."""

from __future__ import annotations

import ast
import gettext
import io
import string
from collections.abc import Iterator
from pathlib import Path

import pytest

from panel.ui.locales import catalogues

PAGES = sorted(catalogues.PAGES.rglob("*.py"))
LANGUAGES = ["zh"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_translated(language: str) -> None:
    catalogue = catalogues.read_po(language)
    catalogue.update(catalogues.collect(), no_fuzzy_matching=True)
    absent = [message.id for message in catalogues.missing(catalogue)]
    assert not absent, f"run `make locales`, then translate: {absent}"


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_translation_has_lost_its_text(language: str) -> None:
    wanted = {str(message.id) for message in catalogues.collect()}
    there = {str(message.id) for message in catalogues.read_po(language)}
    assert there - wanted == set(), "run `make locales`: these texts are no longer used"


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_translation_has_the_placeholders_of_its_text(language: str) -> None:
    for message in catalogues.read_po(language):
        for text in _texts(message.string):
            originals = [placeholders(original) for original in _texts(message.id)]
            assert placeholders(text) in originals or not message.id, message.id


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_compiled_catalogue_is_that_of_the_text_file(language: str) -> None:
    fresh = catalogues.compiled(catalogues.read_po(language))
    shipped = catalogues.po_path(language).with_suffix(".mo").read_bytes()
    assert _entries(shipped) == _entries(fresh), "run `make locales`"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_text_is_asked_for_inside_an_f_string_where_babel_misses_it(path: Path) -> None:
    tree = ast.parse(path.read_text())
    hidden = [
        f"line {call.lineno}"
        for text in ast.walk(tree)
        if isinstance(text, ast.JoinedStr)
        for call in ast.walk(text)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id in ("_", "ngettext")
        and call.args
        and isinstance(call.args[0], ast.Constant)
    ]
    assert not hidden, f"{path.name}: assign first, then format ({', '.join(hidden)})"


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def _texts(value: object) -> Iterator[str]:
    texts = value if isinstance(value, (tuple, list)) else [value]
    yield from (str(text) for text in texts if text)


def _entries(compiled: bytes) -> dict[str, str]:

    entries = gettext.GNUTranslations(io.BytesIO(compiled))._catalog  # type: ignore[attr-defined]  # gettext offers no other way to list them
    return {key: text for key, text in entries.items() if key}
