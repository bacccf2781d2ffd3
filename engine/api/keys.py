"""API keys: read once from a file, one a line; compared in constant time."""

from __future__ import annotations

import hmac
from pathlib import Path

from engine.api.errors import ApiError
from engine.errors import ConfigError


class Keys:
    """The keys that open the API. Without any, every client is let in."""

    def __init__(self, keys: tuple[str, ...] = ()) -> None:
        self._keys = tuple(key.encode() for key in keys)

    def check(self, authorization: str) -> None:
        """Raise ApiError (401) unless the header is `Bearer KEY` with a known key."""
        if not self._keys:
            return
        scheme, _, given = authorization.partition(" ")
        offered = given.strip().encode("latin-1")  # as HTTP servers decode a header
        is_known = any([hmac.compare_digest(key, offered) for key in self._keys])
        if scheme.lower() != "bearer" or not is_known:
            raise ApiError(
                401,
                "The API key is missing or wrong. Send it as `Authorization: Bearer KEY`.",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )


def read_keys(path: str | None) -> Keys:
    """The keys of `--api-key-file`; empty lines and lines that begin with # are left out.

    Raises ConfigError for a file that cannot be read or holds no key: a server that was asked to
    be locked never starts open.
    """
    if path is None:
        return Keys()
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--api-key-file {path} cannot be read: {error}",
            fix="Give a text file with one key a line.",
        ) from error
    keys = tuple(k for line in lines if (k := line.strip()) and not k.startswith("#"))
    if not keys:
        raise ConfigError(f"--api-key-file {path} holds no key.", fix="Write one key a line.")
    return Keys(keys)
