"""What lies in a model's folder, checked before anything is loaded.

Reads config.json and the headers of the safetensors files (a few kilobytes each) with the standard
library alone, so a missing, cut off or never downloaded file is named before torch is imported.
Pickled weights are not read.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import ModelError

_INDEX = "model.safetensors.index.json"
_LFS_MARK = b"version https://git-lfs"
_MAX_HEADER_BYTES = 100 * 2**20


@dataclass(frozen=True, slots=True)
class Folder:
    """A model folder whose files are whole. config: config.json as it stands. tensors: the file in
    which each stored tensor lies. num_bytes: of all tensors."""

    path: Path
    config: dict[str, Any]
    tensors: dict[str, Path]
    num_bytes: int


def read_folder(path: str | Path) -> Folder:
    """Look at a model's folder. Raises ModelError that names the file and what is wrong with it."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ModelError(f"The folder {folder} does not exist.", fix="Check --model-path.")
    config = _read_json(folder / "config.json")
    tensors: dict[str, Path] = {}
    num_bytes = 0
    for file in _weight_files(folder):
        header = _read_header(file)
        tensors |= dict.fromkeys(header, file)
        num_bytes += sum(end - begin for begin, end in header.values())
    return Folder(folder, config, tensors, num_bytes)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(
            f"{path.parent} has no {path.name}.",
            fix="Choose the folder that holds config.json, safetensors files and the tokenizer.",
        ) from None
    _refuse_pointer(path, text[:64])
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}.", fix="Download it again.") from None
    if not isinstance(values, dict):
        raise ModelError(f"{path} is not a JSON object.", fix="Download it again.")
    return values


def _weight_files(folder: Path) -> Iterator[Path]:
    """The safetensors files: those that the index names, or else all that there are."""
    if (folder / _INDEX).is_file():
        names = sorted(set(_read_json(folder / _INDEX).get("weight_map", {}).values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise ModelError(
                f"{folder} lacks {missing[0]}: {len(missing)} of {len(names)} files that "
                f"{_INDEX} names are missing.",
                fix="Resume the download.",
            )
        files = [folder / name for name in names]
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = next((f.name for f in folder.glob("*.bin")), None)
        found = f", only {pickled}, whose format can run code when it is read" if pickled else ""
        raise ModelError(
            f"{folder} has no safetensors files{found}.",
            fix="Download the model's safetensors files, or convert it.",
        )
    yield from files


def _read_header(path: Path) -> dict[str, tuple[int, int]]:
    """Names and byte ranges of a file's tensors.

    Source: the safetensors format: 8 bytes little-endian header length, JSON header, then data.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(64)
        _refuse_pointer(path, start)
        length = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else 0
        if not 2 <= length <= min(size - 8, _MAX_HEADER_BYTES):
            raise ModelError(
                f"{path} has {size:,} bytes and no complete safetensors header.",
                fix="Download it again.",
            )
        file.seek(8)
        text = file.read(length)
    try:
        header = json.loads(text)
        ranges = {
            name: (entry["data_offsets"][0], entry["data_offsets"][1])
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{path} has a damaged header.", fix="Download it again.") from None
    expected = 8 + length + max((end for _, end in ranges.values()), default=0)
    if size != expected:
        raise ModelError(
            f"{path} has {size:,} bytes; its header announces {expected:,}.",
            fix="The download was cut off: resume it or download the file again.",
        )
    return ranges


def _refuse_pointer(path: Path, start: bytes) -> None:
    if start.startswith(_LFS_MARK):
        raise ModelError(
            f"{path} is a Git LFS pointer, not the file itself.",
            fix="Run `git lfs pull` in the folder, or download the model another way.",
        )
