from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panel.errors import SourceError
from panel.models.library import find, folder_of
from panel.models.source import DEMO, ModelSource, SourceKind, parse

_WORD = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,12}", fullmatch=True)


@pytest.mark.parametrize(
    ("text", "kind", "name", "revision"),
    [
        ("Qwen/Qwen3-8B", SourceKind.HUGGINGFACE, "Qwen/Qwen3-8B", None),
        ("hf:Qwen/Qwen3-8B@main", SourceKind.HUGGINGFACE, "Qwen/Qwen3-8B", "main"),
        ("ms:Qwen/Qwen3-8B", SourceKind.MODELSCOPE, "Qwen/Qwen3-8B", None),
        ("org/name@refs/pr/3", SourceKind.HUGGINGFACE, "org/name", "refs/pr/3"),
        ("/models/mine", SourceKind.LOCAL, "/models/mine", None),
    ],
)
def test_each_way_of_writing_a_source_is_understood(
    text: str, kind: SourceKind, name: str, revision: str | None
) -> None:
    assert parse(text) == ModelSource(kind, name, revision)


def test_demo_is_the_built_in_model() -> None:
    assert parse(" demo ") is DEMO


@pytest.mark.parametrize(
    "text",
    ["", "Qwen", "hf:", "a/b/c", "org/na me", "hf:../../etc", "org/..", "org/name@", "模型/一"],
)
def test_what_is_no_source_is_refused_with_the_grammar(text: str) -> None:
    with pytest.raises(SourceError) as caught:
        parse(text)
    assert "org/name" in caught.value.fix


def test_a_folder_is_recognised_without_a_slash_in_front(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert parse("org/mine") == parse("./org/mine") == parse(str(tmp_path / "org/mine"))


@given(st.sampled_from(["hf", "ms"]), _WORD, _WORD, st.none() | _WORD)
def test_a_source_written_and_read_is_the_same(
    prefix: str, org: str, name: str, revision: str | None
) -> None:
    source = parse(f"{prefix}:{org}/{name}" + (f"@{revision}" if revision else ""))
    assert parse(str(source)) == source


def test_display_names_are_the_last_part() -> None:
    assert [parse(t).display_name for t in ("demo", "ms:Qwen/Qwen3-8B@v1", "/models/mine")] == [
        "SmolLM2-135M-Instruct",
        "Qwen3-8B",
        "mine",
    ]


def test_a_folder_under_models_path_without_config_is_not_found(tmp_path: Path) -> None:
    source = parse("hf:org/name")
    folder = folder_of(source, tmp_path)
    folder.mkdir(parents=True)
    assert find(source, tmp_path) is None
    (folder / "config.json").write_text("{}")
    assert find(source, tmp_path) == folder


def test_revisions_and_hubs_have_folders_of_their_own(tmp_path: Path) -> None:
    texts = ["hf:a/b", "hf:a/b@v2", "ms:a/b", "hf:a/b@x/y"]
    assert len({folder_of(parse(text), tmp_path) for text in texts}) == len(texts)
