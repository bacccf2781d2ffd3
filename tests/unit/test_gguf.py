"""A GGUF file as the model: converted once, then found again."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from engine.config import EngineConfig
from engine.errors import ModelError, UnsupportedModel
from engine.model.gguf import folder_of, with_folder

_STAND_IN = """
import json, pathlib, sys
gguf, dest = map(pathlib.Path, sys.argv[1:])
dest.mkdir()
(dest / "config.json").write_text("{}")
with gguf.with_name("runs").open("a") as runs:
    runs.write("x")
print(json.dumps({"stage": "convert", "progress": 0.4, "detail": "half"}))
print(json.dumps({"path": str(dest)}))
"""
CONVERT = (sys.executable, "-c", _STAND_IN)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.gguf"
    path.write_bytes(b"GGUF")
    return path


def config_of(path: Path, name: str | None = None) -> EngineConfig:
    return EngineConfig(model_path=str(path), served_model_name=name)


def test_a_folder_stays_the_model(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    assert with_folder(config) is config


def test_a_file_is_converted_once_and_found_again(file: Path) -> None:
    for _ in range(2):
        config = with_folder(config_of(file), CONVERT)
        assert config.model_path == str(folder_of(file))
        assert config.model_name == "small"
    assert file.with_name("runs").read_text() == "x"


def test_a_name_that_was_given_is_kept(file: Path) -> None:
    assert with_folder(config_of(file, "mine"), CONVERT).model_name == "mine"


def test_a_newer_file_is_converted_again(file: Path) -> None:
    with_folder(config_of(file), CONVERT)
    made = (folder_of(file) / "config.json").stat().st_mtime
    os.utime(file, (made + 10, made + 10))
    with_folder(config_of(file), CONVERT)
    assert file.with_name("runs").read_text() == "xx"


def test_the_reason_of_a_refusal_comes_through(file: Path) -> None:
    line = '{"error": {"code": "UnsupportedModel", "message": "no bloom", "fix": "take another"}}'
    refuse = (sys.executable, "-c", f"import sys; print('''{line}'''); sys.exit(2)")
    with pytest.raises(UnsupportedModel, match="no bloom"):
        with_folder(config_of(file), refuse)


def test_a_conversion_that_dies_is_told(file: Path) -> None:
    with pytest.raises(ModelError, match="exit code 7"):
        with_folder(config_of(file), (sys.executable, "-c", "raise SystemExit(7)"))


def test_a_file_that_is_no_gguf_is_refused_by_the_real_command(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"no")
    with pytest.raises(ModelError, match="begins with") as caught:
        with_folder(config_of(path))
    assert caught.value.fix
    assert not folder_of(path).exists()
