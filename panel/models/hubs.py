"""Hugging Face and ModelScope: which files a model has, and its config without its weights.

The hubs' libraries list the files and find the account's token; their errors become SourceError
with a cure. Only safetensors, JSON and tokenizer files are ever taken: no pickle, no Python.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import httpx

from panel.errors import SourceError, SourceUnreachable
from panel.models.headers import Stored, Tensor, parse_header
from panel.models.library import revision_of
from panel.models.source import ModelSource, SourceKind
from panel.models.transfer import RemoteFile, client_for

_TEXT_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".tiktoken")
_HEADER_GUESS_BYTES = 1 << 17
_OTHER_WAYS = "a mirror (HF_ENDPOINT), ModelScope (ms:org/name), a local folder, or the demo model"


@dataclass(frozen=True, slots=True)
class Listing:
    """The files worth fetching, at one commit. headers: the account's, for each request."""

    source: ModelSource
    endpoint: str
    commit: str
    files: tuple[RemoteFile, ...]
    headers: Mapping[str, str]

    @property
    def num_bytes(self) -> int:
        return sum(file.num_bytes for file in self.files)

    def file(self, path: str) -> RemoteFile | None:
        return next((file for file in self.files if file.path == path), None)


def listing(source: ModelSource) -> Listing:
    """Ask the source's hub for its files.

    Raises SourceError: hub unreachable, model not found or gated, no usable weights.
    """
    found = _LISTERS[source.kind](source)
    if not any(file.path.endswith(".safetensors") for file in found.files):
        raise SourceError(
            f"{source} has no safetensors weights.",
            fix="Choose a version of the model in safetensors; pickle files can run code.",
        )
    if found.file("config.json") is None:
        raise SourceError(
            f"{source} has no config.json.", fix="Choose a model in Hugging Face layout."
        )
    return found


def wanted(paths: list[str]) -> list[str]:
    """The files that make a model, of all that a repository holds.

    Top level only. Where weights lie in the usual names, other safetensors files are second copies
    (consolidated.safetensors, fp16 variants).
    """
    top = [path for path in paths if len(PurePosixPath(path).parts) == 1]
    weights = [path for path in top if path.endswith(".safetensors")]
    usual = [w for w in weights if w == "model.safetensors" or w.startswith("model-0")]
    texts = [path for path in top if path.endswith(_TEXT_SUFFIXES)]
    return sorted(texts) + sorted(usual or weights)


def read_config_and_headers(source: ModelSource) -> tuple[dict[str, Any], Stored | None]:
    """config.json, and what the heads of the weight files say; some 100 kB a file are read."""
    found = listing(source)
    with client_for(found.headers) as client, _readable(source, found.endpoint):
        config_file = found.file("config.json")
        assert config_file is not None, "listing() checks this"
        config = json.loads(_start_of(client, config_file, config_file.num_bytes))
        weights = [file for file in found.files if file.path.endswith(".safetensors")]
        with ThreadPoolExecutor(8) as pool:
            tensors = list(pool.map(lambda file: _header_of(client, file), weights))
    return config, Stored(tuple(tensor for one in tensors for tensor in one))


@contextmanager
def _readable(source: ModelSource, endpoint: str) -> Iterator[None]:
    try:
        yield
    except httpx.HTTPStatusError as error:
        raise _refused(source, endpoint, error.response.status_code) from error
    except httpx.TransportError as error:
        raise _unreachable(source, endpoint, error) from error
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(
            f"The files of {source} at {endpoint} are not readable: {error}",
            fix="Check the model's page, or take another source.",
        ) from error


def _start_of(client: httpx.Client, file: RemoteFile, num_bytes: int) -> bytes:
    """The first bytes of a file, whether or not the server honours Range."""
    data, wanted_range = b"", {"Range": f"bytes=0-{max(num_bytes, 1) - 1}"}
    with client.stream("GET", file.url, headers=wanted_range) as answer:
        answer.raise_for_status()
        for chunk in answer.iter_bytes():
            data += chunk
            if len(data) >= num_bytes:
                break
    return data[:num_bytes]


def _header_of(client: httpx.Client, file: RemoteFile) -> list[Tensor]:
    data = _start_of(client, file, min(_HEADER_GUESS_BYTES, file.num_bytes))
    length = int.from_bytes(data[:8], "little")
    if 8 + length > file.num_bytes:
        raise ValueError(f"{file.path} is no safetensors file")
    if 8 + length > len(data):
        data = _start_of(client, file, 8 + length)
    return parse_header(json.loads(data[8 : 8 + length]))[0]


# --- Hugging Face ------------------------------------------------------------------------------


def _list_huggingface(source: ModelSource) -> Listing:
    from huggingface_hub import HfApi, constants, hf_hub_url
    from huggingface_hub import errors as hf
    from huggingface_hub.utils import build_hf_headers

    endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    # the HTTPError of that httpx (1 or 2) which this version of the library uses
    transport: type[Exception] = hf.HfHubHTTPError.__bases__[0]
    try:
        info = HfApi(endpoint=endpoint).model_info(
            source.name, revision=revision_of(source), files_metadata=True, timeout=15
        )
    except hf.GatedRepoError as error:
        raise _refused(source, endpoint, 403) from error
    except (hf.RepositoryNotFoundError, hf.RevisionNotFoundError) as error:
        raise _refused(source, endpoint, 404) from error
    except hf.HfHubHTTPError as error:
        raise _refused(source, endpoint, error.response.status_code) from error
    except (transport, hf.OfflineModeIsEnabled) as error:
        raise _unreachable(source, endpoint, error) from error
    by_path = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    commit = info.sha or revision_of(source)
    files = tuple(
        RemoteFile(
            path,
            by_path[path].size or 0,
            hf_hub_url(source.name, path, revision=commit, endpoint=endpoint),
            lfs.sha256 if (lfs := by_path[path].lfs) else None,
        )
        for path in wanted(list(by_path))
    )
    return Listing(source, endpoint, commit, files, build_hf_headers())


# --- ModelScope --------------------------------------------------------------------------------


def _list_modelscope(source: ModelSource) -> Listing:
    from modelscope_hub import HubApi
    from modelscope_hub import errors as ms

    api = HubApi(endpoint=os.environ.get("MODELSCOPE_ENDPOINT"))
    endpoint, revision = str(api.legacy.endpoint), revision_of(source)
    try:
        listed = api.list_repo_files(source.name, "model", revision=revision)
    except ms.NotExistError as error:
        raise _refused(source, endpoint, 404) from error
    except (ms.AuthenticationError, ms.PermissionDeniedError) as error:
        raise _refused(source, endpoint, 403) from error
    except ms.NetworkError as error:
        raise _unreachable(source, endpoint, error) from error
    except ms.APIError as error:
        raise _refused(source, endpoint, error.status_code or 0) from error
    by_path = {file.path: file for file in listed if not file.is_dir}
    files = tuple(
        RemoteFile(
            path,
            by_path[path].size,
            api.legacy.get_download_url(source.name, "model", path, revision),
            by_path[path].sha256,
        )
        for path in wanted(list(by_path))
    )
    token = os.environ.get("MODELSCOPE_API_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return Listing(source, endpoint, revision, files, headers)


_LISTERS: Mapping[SourceKind, Callable[[ModelSource], Listing]] = {
    SourceKind.HUGGINGFACE: _list_huggingface,
    SourceKind.MODELSCOPE: _list_modelscope,
}


# --- errors ------------------------------------------------------------------------------------


def _unreachable(source: ModelSource, endpoint: str, error: Exception) -> SourceUnreachable:
    return SourceUnreachable(
        f"{endpoint} cannot be reached, so {source} cannot be read ({type(error).__name__}).",
        fix=f"Check the network, or use {_OTHER_WAYS}.",
    )


def _refused(source: ModelSource, endpoint: str, status: int) -> SourceError:
    """What a hub's status means for the person."""
    token = "MODELSCOPE_API_TOKEN" if source.kind is SourceKind.MODELSCOPE else "HF_TOKEN"
    if status == 404:
        return SourceError(
            f"{endpoint} knows no {source.name} at revision {revision_of(source)}.",
            fix=f"Check the id and the revision; for a private model set {token}.",
        )
    if status in (401, 403):
        return SourceError(
            f"{source.name} is gated or private at {endpoint} ({status}).",
            fix=f"Accept its licence on its page, then set {token} to a token of that account.",
        )
    if status == 429:
        return SourceError(
            f"{endpoint} asks for fewer requests (429).", fix=f"Wait some minutes, or set {token}."
        )
    return SourceError(
        f"{endpoint} answered {status} for {source.name}.",
        fix=f"Try again later, or use {_OTHER_WAYS}.",
    )
