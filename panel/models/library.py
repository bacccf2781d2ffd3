"""Where model folders lie under models_path, and whether one is complete.

    demo/SmolLM2-135M-Instruct      hf/Qwen--Qwen3-8B@main      ms/…
    partial/hf--Qwen--Qwen3-8B@main/    a download under way; renamed when complete
    cache/                              the demo model's wheel

A folder gets its final name by one rename, after everything in it is there: whoever finds it may
use it.
"""

from __future__ import annotations

from pathlib import Path

from panel.models.source import ModelSource, SourceKind

_FOLDERS = {
    SourceKind.DEMO: "demo",
    SourceKind.HUGGINGFACE: "hf",
    SourceKind.MODELSCOPE: "ms",
}
_DEFAULT_REVISIONS = {SourceKind.HUGGINGFACE: "main", SourceKind.MODELSCOPE: "master"}


def revision_of(source: ModelSource) -> str:
    """The revision asked for, or the hub's default branch."""
    return source.revision or _DEFAULT_REVISIONS[source.kind]


def folder_of(source: ModelSource, models_path: Path) -> Path:
    """Where this source's finished folder is or will be."""
    if source.kind is SourceKind.LOCAL:
        return Path(source.name)
    return models_path / _FOLDERS[source.kind] / _folder_name(source)


def partial_of(source: ModelSource, models_path: Path) -> Path:
    """Where this source is gathered until it is complete."""
    return models_path / "partial" / f"{_FOLDERS[source.kind]}--{_folder_name(source)}"


def _folder_name(source: ModelSource) -> str:
    if source.kind is SourceKind.DEMO:
        return source.name
    revision = revision_of(source).replace("/", "--")
    return f"{source.name.replace('/', '--')}@{revision}"


def find(source: ModelSource, models_path: Path) -> Path | None:
    """The complete folder of this source, or None if it still has to be fetched."""
    folder = folder_of(source, models_path)
    return folder if (folder / "config.json").is_file() else None
