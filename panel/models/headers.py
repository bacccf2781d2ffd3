"""Safetensors files by their headers: names, types and sizes of tensors without reading a tensor.

The format: 8 bytes little-endian header length, a JSON header, the data. Here every way in which a
folder can be unusable becomes a ModelFolderError that names the file and the cure.
Source: the safetensors format description, version 0.8.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from panel.errors import ModelFolderError

INDEX = "model.safetensors.index.json"
_LFS_START = b"version https://git-lfs"
_MAX_HEADER_BYTES = 100_000_000
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True, slots=True)
class Tensor:
    name: str
    dtype: str  # safetensors' word: BF16, F32, I8, …
    shape: tuple[int, ...]
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Stored:
    """What the weight files hold. bytes_by_dtype: safetensors' type name → bytes."""

    tensors: tuple[Tensor, ...]

    @property
    def num_bytes(self) -> int:
        return sum(tensor.num_bytes for tensor in self.tensors)

    @property
    def bytes_by_dtype(self) -> dict[str, int]:
        total: Counter[str] = Counter()
        for tensor in self.tensors:
            total[tensor.dtype] += tensor.num_bytes
        return dict(total)

    def num_params(self, tied: bool) -> int:
        """All numbers stored; a head that is the embedding again is counted once."""
        names = {tensor.name for tensor in self.tensors}
        doubled = "lm_head.weight" if tied and len(names) > 1 else None
        return sum(prod(t.shape) for t in self.tensors if t.name != doubled)


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json. Raises ModelFolderError where there is none or it is damaged."""
    if not folder.is_dir():
        raise ModelFolderError(f"{folder} is not a folder.", fix=_instead_of(folder))
    path = folder / "config.json"
    if not path.is_file():
        raise ModelFolderError(f"{folder} has no config.json.", fix=_without_config(folder))
    config = read_json(path)
    if not isinstance(config.get("model_type"), str):
        raise ModelFolderError(
            f"{path} names no model_type, so the architecture is unknown.",
            fix="Take config.json from the model's own page again.",
        )
    return config


def _instead_of(path: Path) -> str:
    if path.suffix == ".gguf":
        return f"Convert it: python -m engine.model.convert {path} DEST."
    return "Give the folder that holds config.json."


def _without_config(folder: Path) -> str:
    if any(folder.glob("*.gguf")):
        return "It holds GGUF; convert it: python -m engine.model.convert FILE.gguf DEST."
    if (folder / "adapter_config.json").exists():
        return "It holds a LoRA adapter; merge it into its base model first."
    if inner := next(folder.glob("*/config.json"), None):
        return f"Did you mean {inner.parent}?"
    return "Give a model folder in Hugging Face layout (config.json, *.safetensors, tokenizer)."


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object from a model folder, or a ModelFolderError that names the file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    if data.startswith(_LFS_START):
        raise _lfs_pointer(path)
    try:
        value = json.loads(data)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelFolderError(
            f"{path} is not valid JSON: {error}", fix="Download this file again."
        ) from None
    if not isinstance(value, dict):
        raise ModelFolderError(
            f"{path} holds a {type(value).__name__}, not an object.",
            fix="Download this file again.",
        )
    return value


def read_headers(folder: Path) -> Stored:
    """Headers of all weight files. Raises ModelFolderError for missing or damaged ones."""
    tensors: list[Tensor] = []
    for path in weight_files(folder):
        tensors += _read_header(path)
    return Stored(tuple(tensors))


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make up the model: those of the index, else all there are."""
    index = folder / INDEX
    if index.is_file():
        return _indexed_files(index)
    if (single := folder / "model.safetensors").is_file():
        return [single]
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return files
    pickles = [path.name for pattern in _PICKLES for path in folder.glob(pattern)]
    if pickles:
        raise ModelFolderError(
            f"{folder} has its weights only in {sorted(pickles)[0]}, a pickle, which can run code.",
            fix="Get the safetensors version of this model, or convert it where you trust it.",
        )
    raise ModelFolderError(
        f"{folder} has a config.json but no *.safetensors file.",
        fix="Download the weights too; half a download has only the small files.",
    )


def _indexed_files(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    files = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not files or not all(isinstance(name, str) for name in files):
        raise ModelFolderError(
            f"{index} has no weight_map of file names.", fix="Download this file again."
        )
    names = sorted(set(files))
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise ModelFolderError(
            f"{index.parent} lacks {len(missing)} of {len(names)} weight files: {missing[0]}"
            + (" …" if len(missing) > 1 else ""),
            fix="Finish the download of this model.",
        )
    return [index.parent / name for name in names]


def _read_header(path: Path) -> list[Tensor]:
    try:
        size, length, data = _header_bytes(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        tensors, data_bytes = parse_header(json.loads(data))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _damaged(path, "its header is not readable") from None
    if 8 + length + data_bytes != size:
        raise _damaged(path, f"{size} bytes of {8 + length + data_bytes}")
    return tensors


def _header_bytes(path: Path) -> tuple[int, int, bytes]:
    """Size of the file, length of its header, and the header."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(len(_LFS_START))
        if start == _LFS_START:
            raise _lfs_pointer(path)
        length = int.from_bytes(start[:8], "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
            raise _damaged(path, f"{size} bytes, header said to be {length} bytes")
        file.seek(8)
        return size, length, file.read(length)


def parse_header(header: Mapping[str, Any]) -> tuple[list[Tensor], int]:
    """The tensors of one header, and how many bytes of data must follow it."""
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    tensors = [
        Tensor(
            name,
            str(entry["dtype"]),
            tuple(int(n) for n in entry["shape"]),
            int(entry["data_offsets"][1]) - int(entry["data_offsets"][0]),
        )
        for name, entry in entries.items()
    ]
    return tensors, max((int(e["data_offsets"][1]) for e in entries.values()), default=0)


def _damaged(path: Path, detail: str) -> ModelFolderError:
    return ModelFolderError(
        f"{path} is damaged or cut short ({detail}).",
        fix="Delete this file and download it again.",
    )


def _unreadable(path: Path, error: OSError) -> ModelFolderError:
    return ModelFolderError(
        f"{path} cannot be read: {error.strerror or error}.",
        fix="Check the file's owner and permissions, and the disk.",
    )


def _lfs_pointer(path: Path) -> ModelFolderError:
    return ModelFolderError(
        f"{path} is a git-lfs pointer, not the file itself.",
        fix=f"Run `git lfs install && git lfs pull` in {path.parent}.",
    )
