"""A GGUF file given as the model: converted once, into a folder beside it, and used from there.

    model.Q4_K_M.gguf           as it was given
    model.Q4_K_M.gguf.folder/   what engine.model.convert made of it; made anew if the file is newer

Standard library only: the conversion needs torch and runs as a process of its own.
"""

from __future__ import annotations

import json
import logging
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from engine import errors
from engine.config import EngineConfig
from engine.errors import EngineError, ModelError

logger = logging.getLogger("engine.convert")

CONVERT_COMMAND = (sys.executable, "-m", "engine.model.convert")


def with_folder(config: EngineConfig, command: Sequence[str] = CONVERT_COMMAND) -> EngineConfig:
    """The same configuration with a folder as its model; unchanged if it has one already.

    Converts the file if that was not done yet, which takes seconds to minutes. Raises ModelError.
    """
    file = Path(config.model_path).expanduser()
    if file.suffix.lower() != ".gguf" or file.is_dir():
        return config
    folder = folder_of(file)
    if not is_fresh(file, folder):
        shutil.rmtree(folder, ignore_errors=True)
        _convert(file, folder, command)
    name = config.served_model_name or file.stem
    return replace(config, model_path=str(folder), served_model_name=name)


def folder_of(file: Path) -> Path:
    return file.with_name(file.name + ".folder")


def is_fresh(file: Path, folder: Path) -> bool:
    """Whether the folder is there and was made after the file was last written."""
    made = folder / "config.json"
    return made.is_file() and (not file.is_file() or made.stat().st_mtime >= file.stat().st_mtime)


def _convert(file: Path, folder: Path, command: Sequence[str]) -> None:
    """Run the conversion and log how far it is."""
    logger.info("Converting %s once into %s", file, folder)
    told: dict[str, object] = {}
    with (
        subprocess.Popen(
            [*command, str(file), str(folder)], stdout=subprocess.PIPE, text=True
        ) as process,
        _ended_with_us(process),
    ):
        assert process.stdout is not None
        for line in process.stdout:
            told = json.loads(line)
            if "detail" in told:
                logger.info("%s", told["detail"])
        exit_code = process.wait()
    error = told.get("error")
    if isinstance(error, dict):
        kind = getattr(errors, str(error["code"]), ModelError)
        assert issubclass(kind, EngineError), kind
        raise kind(error["message"], fix=error["fix"])
    if exit_code != 0:
        raise ModelError(
            f"Converting {file.name} ended with exit code {exit_code}.",
            fix="See the log above; a kill means that memory ran out.",
        )


@contextmanager
def _ended_with_us(process: subprocess.Popen[str]) -> Iterator[None]:
    """Whatever ends this process politely ends the conversion too, and leaves nothing behind."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if process.poll() is None:
            process.terminate()
            process.wait()
