"""Imports run one way: panel → db, panel → engine.config and engine.footprint; nothing else."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STANDARD_LIBRARY_ONLY = ("engine/config.py", "engine/footprint.py", "engine/errors.py")
WITHOUT_TORCH = ("request", "scheduler", "blocks", "prefix", "messages")


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, at its top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            module = node.module or ""
            names |= {f"{module}.{alias.name}" for alias in node.names} | {module}
    return names


def files_of(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def top(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("path", files_of("db"), ids=str)
def test_db_imports_neither_panel_nor_engine(path: Path) -> None:
    assert not top(imports_of(path)) & {"panel", "engine"}


@pytest.mark.parametrize("path", files_of("engine"), ids=str)
def test_engine_imports_neither_panel_nor_db(path: Path) -> None:
    assert not top(imports_of(path)) & {"panel", "db"}


@pytest.mark.parametrize("path", files_of("panel"), ids=str)
def test_panel_takes_only_options_and_footprint_from_the_engine(path: Path) -> None:
    allowed = ("engine", "engine.config", "engine.footprint", "engine.errors")
    from_engine = {name for name in imports_of(path) if name.split(".")[0] == "engine"}
    assert all(name in allowed or name.rpartition(".")[0] in allowed[1:] for name in from_engine), (
        from_engine
    )


@pytest.mark.parametrize("path", files_of("panel"), ids=str)
def test_panel_never_imports_torch_or_transformers(path: Path) -> None:
    assert not top(imports_of(path)) & {"torch", "transformers"}


@pytest.mark.parametrize("name", STANDARD_LIBRARY_ONLY)
def test_what_the_panel_imports_from_the_engine_is_standard_library_only(name: str) -> None:
    foreign = top(imports_of(ROOT / name)) - set(sys.stdlib_module_names) - {"engine"}
    assert not foreign


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_scheduling_needs_no_torch(name: str) -> None:
    imported = imports_of(ROOT / "engine" / "core" / f"{name}.py")
    assert "torch" not in top(imported)
    ours = {i for i in imported if i.startswith("engine.")}
    assert not any(
        i.startswith(("engine.worker", "engine.model", "engine.attention")) for i in ours
    )
