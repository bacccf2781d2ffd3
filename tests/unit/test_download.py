"""Fetching from a hub: real client libraries and real HTTP against a stand-in on loopback."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from panel.errors import ModelFolderError, SourceError
from panel.models import download, hubs, transfer
from panel.models.download import fetch
from panel.models.headers import read_headers
from panel.models.library import find, partial_of
from panel.models.progress import Progress
from panel.models.shape import shape_of_source
from panel.models.source import ModelSource, parse
from tests.unit.hub_server import COMMIT, Hub, serve
from tests.unit.model_folders import TINY_CONFIG, tiny_files, write_model

HF, MS = parse("hf:org/tiny"), parse("ms:org/tiny")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch):
    """A hub with a small model in two shards and things that must not be taken."""
    files = tiny_files(num_shards=2)
    files |= {"pytorch_model.bin": b"pickle", "modeling_evil.py": b"import os"}
    files |= {"consolidated.safetensors": b"copy", "onnx/model.safetensors": b"copy"}
    monkeypatch.setattr(transfer, "_NETWORK_WAITS_S", (0.0, 0.0, 0.0))
    monkeypatch.setattr(transfer, "_BUSY_WAITS_S", (0.0, 0.0))
    with serve(Hub(files)) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", running.endpoint)
        yield running


def _quiet(progress: Progress) -> None:
    pass


@pytest.mark.parametrize("source", [HF, MS], ids=["huggingface", "modelscope"])
def test_a_fetched_model_has_weights_and_texts_but_no_pickle_and_no_python(
    hub: Hub, tmp_path: Path, source: ModelSource
) -> None:
    seen: list[Progress] = []
    folder = fetch(source, tmp_path, seen.append)
    names = {path.name for path in folder.iterdir()}
    assert names == {*tiny_files(num_shards=2), "origin.json"}
    assert find(source, tmp_path) == folder
    assert seen[-1].fraction == 1.0
    assert read_headers(folder).tensors


def test_the_folder_says_which_commit_it_is(hub: Hub, tmp_path: Path) -> None:
    folder = fetch(HF, tmp_path, _quiet)
    assert json.loads((folder / "origin.json").read_text())["commit"] == COMMIT


def test_a_second_fetch_asks_nobody(hub: Hub, tmp_path: Path) -> None:
    fetch(HF, tmp_path, _quiet)
    hub.requests.clear()
    fetch(HF, tmp_path, _quiet)
    assert hub.requests == []


def test_two_callers_at_once_fetch_it_once(hub: Hub, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(lambda _: fetch(HF, tmp_path, _quiet), range(2)))
    assert folders[0] == folders[1]
    paths = [path for path, _ in hub.requests]
    assert len(paths) == len(set(paths))


def test_a_broken_connection_continues_where_it_broke(hub: Hub, tmp_path: Path) -> None:
    hub.break_after, hub.num_breaks = 2000, 2
    folder = fetch(HF, tmp_path, _quiet)
    assert "bytes=2000-" in {wanted for _, wanted in hub.requests}
    assert read_headers(folder).tensors


def test_a_hub_that_never_answers_gives_up_with_what_arrived_kept(hub: Hub, tmp_path: Path) -> None:
    hub.break_after, hub.num_breaks, hub.honours_ranges = 600, 1000, False
    with pytest.raises(SourceError, match="broke 4 times") as caught:
        fetch(HF, tmp_path, _quiet)
    assert "kept" in caught.value.fix
    assert find(HF, tmp_path) is None


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_fetch_is_no_model_and_the_next_one_continues_it(
    hub: Hub, tmp_path: Path, end: signal.Signals
) -> None:
    hub.break_after, hub.num_breaks, hub.holds = 3000, 1000, True
    command = [sys.executable, "-m", "panel.models.prepare", str(HF)]
    killed = subprocess.Popen([*command, "--models-path", str(tmp_path)], stdout=subprocess.PIPE)
    partial = partial_of(HF, tmp_path)
    try:
        _wait_for(lambda: 3000 in {p.stat().st_size for p in partial.glob("*.safetensors.part")})
    finally:
        killed.send_signal(end)
        hub.released.set()
        killed.communicate(timeout=20)
    assert find(HF, tmp_path) is None
    hub.num_breaks = 0
    hub.requests.clear()
    assert read_headers(fetch(HF, tmp_path, _quiet)).tensors
    assert "bytes=3000-" in {wanted for _, wanted in hub.requests}


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 30 s"
        time.sleep(0.02)


def test_a_server_without_ranges_sends_it_all_again(hub: Hub, tmp_path: Path) -> None:
    hub.break_after, hub.num_breaks, hub.honours_ranges = 2000, 1, False
    assert read_headers(fetch(HF, tmp_path, _quiet)).tensors


def test_an_overloaded_hub_is_asked_again(hub: Hub, tmp_path: Path) -> None:
    hub.num_busy = 2
    assert fetch(HF, tmp_path, _quiet).is_dir()


def test_a_damaged_file_is_found_by_its_hash_and_removed(hub: Hub, tmp_path: Path) -> None:
    hub.corrupt = True
    with pytest.raises(SourceError, match=r"\.safetensors arrived damaged"):
        fetch(HF, tmp_path, _quiet)
    assert find(HF, tmp_path) is None


def test_a_fetch_continued_after_the_branch_moved_does_not_mix_two_commits(
    hub: Hub, tmp_path: Path
) -> None:
    partial = partial_of(HF, tmp_path)
    partial.mkdir(parents=True)
    name = "model-00001-of-00002.safetensors"
    (partial / name).write_bytes(hub.files[name][:-4] + b"old.")  # complete, of the same size
    folder = fetch(HF, tmp_path, _quiet)
    assert (folder / name).read_bytes() == hub.files[name]


@pytest.mark.parametrize(
    ("source", "status", "code", "fix"),
    [
        (HF, 401, "GatedRepo", "HF_TOKEN"),
        (HF, 403, "GatedRepo", "HF_TOKEN"),
        (HF, 404, "RepoNotFound", "id and the revision"),
        (HF, 404, "RevisionNotFound", "id and the revision"),
        (MS, 404, "", "id and the revision"),
        (MS, 403, "", "MODELSCOPE_API_TOKEN"),
    ],
)
def test_a_refusal_names_its_cure(
    hub: Hub, tmp_path: Path, source: ModelSource, status: int, code: str, fix: str
) -> None:
    hub.status, hub.error_code = status, code
    with pytest.raises(SourceError) as caught:
        fetch(source, tmp_path, _quiet)
    assert "org/tiny" in caught.value.message
    assert fix in caught.value.fix


@pytest.mark.parametrize("source", [HF, MS], ids=["huggingface", "modelscope"])
def test_an_unreachable_hub_is_named_with_other_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: ModelSource
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(SourceError, match=r"127\.0\.0\.1:9 cannot be reached") as caught:
        fetch(source, tmp_path, _quiet)
    for way in ("HF_ENDPOINT", "ModelScope", "local folder", "demo"):
        assert way in caught.value.fix


def test_a_model_of_pickles_only_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"config.json": b"{}", "pytorch_model.bin": b"pickle"}
    with pytest.raises(SourceError, match="no safetensors"):
        fetch(HF, tmp_path, _quiet)


def test_too_small_a_disk_is_refused_before_the_first_byte(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "SPARE_BYTES", 10**18)
    with pytest.raises(SourceError, match="GB free"):
        fetch(HF, tmp_path, _quiet)
    assert not any("/resolve/" in path for path, _ in hub.requests)


@pytest.mark.parametrize("source", [HF, MS], ids=["huggingface", "modelscope"])
def test_a_remote_shape_is_read_from_headers_without_a_download(
    hub: Hub, tmp_path: Path, source: ModelSource
) -> None:
    shape = shape_of_source(source, tmp_path)
    assert shape.exact
    assert shape.num_params == 40 * 16 + 16 + 2 * (2 * 16 * 16 + 2 * 8 * 16 + 3 * 24 * 16 + 32)
    assert shape.num_layers == TINY_CONFIG["num_hidden_layers"]


def test_only_second_copies_are_left_out_when_no_usual_name_is_there() -> None:
    assert hubs.wanted(["a.safetensors", "config.json"]) == ["config.json", "a.safetensors"]
    assert hubs.wanted(["a.safetensors", "model.safetensors"]) == ["model.safetensors"]


def test_a_local_folder_is_used_where_it_lies(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "mine")
    assert fetch(parse(str(folder)), tmp_path / "models", _quiet) == folder


def test_a_local_folder_without_weights_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "mine")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelFolderError):
        fetch(parse(str(folder)), tmp_path / "models", _quiet)
