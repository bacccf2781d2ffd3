"""Errors in the reader's language: every template is one that the source still writes."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from panel.supervisor.causes import explain_exit
from panel.ui import sentences
from panel.ui.locales.catalogues import ROOT
from panel.ui.sentences import parsed
from tests.ui.look import OpenPage, words

FOLDERS = ("panel", "engine", "db")
EXAMPLES = (
    explain_exit(-9, []).cause.message,
    explain_exit(-11, []).cause.message,
    "Port 8080 on 127.0.0.1 is in use.",
    "Port 8080 on 127.0.0.1 is in use by python (pid 7).",
    "Asked to stop demo.",
)
"""Sentences that the source puts together from pieces."""


def written() -> Iterator[str]:
    """Every text of the source, its holes filled with 7."""
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            if ROOT / "panel" / "ui" not in path.parents:
                yield from texts_of(path)


def texts_of(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    constants = {
        node.targets[0].id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(filled(part, constants) for part in node.values)


def filled(part: ast.expr, constants: Mapping[str, object]) -> str:
    if isinstance(part, ast.Constant):
        return str(part.value)
    value = part.value if isinstance(part, ast.FormattedValue) else None
    return str(constants.get(value.id, 7)) if isinstance(value, ast.Name) else "7"


def test_every_template_is_written_somewhere() -> None:
    found = {template for text in (*written(), *EXAMPLES) for template in templates_of(text)}
    absent = set(sentences.TEMPLATES) - found - set(sentences.HISTORY)
    assert not absent, "nobody writes these any more"


def templates_of(text: str) -> Iterator[str]:
    """The template of a text, and that of the sentence within it."""
    match = parsed(text)
    if match:
        yield match[0]
        yield from templates_of(match[1].get("sentence", ""))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("/m has no config.json.", {"path": "/m"}),
        ("Choose int8. To try all the same: --force.", {"sentence": "Choose int8."}),
        (
            "The engine exited with code 3. 3 attempts in a row never became ready.",
            {"sentence": "The engine exited with code 3.", "n": "3"},
        ),
        (
            "Qwen in bfloat16 needs 16.1 GiB; NVIDIA RTX 4080 gives it 14.4 GiB.",
            {"model": "Qwen", "precision": "bfloat16", "n": "16.1", "m": "14.4",
             "device": "NVIDIA RTX 4080"},
        ),
    ],
)  # fmt: skip
def test_numbers_and_names_are_found_again(text: str, values: dict[str, str]) -> None:
    match = parsed(text)
    assert match is not None
    assert match[1] == values


def test_what_nobody_has_translated_stays_as_it_was_written() -> None:
    assert parsed("Something entirely new happened 3 times!") is None


def test_an_unusable_folder_is_explained_in_chinese(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page("setup", locale="zh-CN", step="model", model=str(tmp_path))
    assert page.error[0].value == f"{tmp_path} 中没有 config.json。"
    assert "请给出 Hugging Face 格式的模型文件夹" in words(page)
