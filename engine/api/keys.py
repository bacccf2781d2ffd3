"""API keys: read once from a file, kept only as hashes, compared in constant time.

A line of the file is a key, or `sha256:` and the hash of one, so that who reads the file cannot use
it. `python -m engine.api.keys` makes a key and prints the line for it. Keys are 32 random bytes:
no word list finds one, so a fast hash is as safe as a slow one: 2 µs a request, not 50 ms.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import sys
from pathlib import Path

from engine.api.errors import ApiError
from engine.errors import ConfigError

HASHED = "sha256:"


class Keys:
    """The keys that open the API. Without any, every client is let in."""

    def __init__(self, keys: tuple[str, ...] = ()) -> None:
        """keys: plain ones, or hashes as `hashed` writes them."""
        self._hashes = tuple(
            bytes.fromhex(key.removeprefix(HASHED)) if key.startswith(HASHED) else _hash(key)
            for key in keys
        )

    def check(self, authorization: str) -> None:
        """Raise ApiError (401) unless the header is `Bearer KEY` with a known key."""
        if not self._hashes:
            return
        scheme, _, given = authorization.partition(" ")
        offered = hashlib.sha256(given.strip().encode("latin-1")).digest()  # as it was sent
        is_known = any([hmac.compare_digest(known, offered) for known in self._hashes])
        if scheme.lower() != "bearer" or not is_known:
            raise ApiError(
                401,
                "The API key is missing or wrong. Send it as `Authorization: Bearer KEY`.",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def hashed(key: str) -> str:
    """The line that stands for a key in the file."""
    return HASHED + _hash(key).hex()


def read_keys(path: str | None) -> Keys:
    """The keys of `--api-key-file`; empty lines and lines that begin with # are left out.

    Raises ConfigError for a file that cannot be read, holds no key or a hash that is none: a server
    that was asked to be locked never starts open.
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
    keys: list[str] = []
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        if line.startswith(HASHED) and not _is_hash(line):
            raise ConfigError(
                f"Line {number} of --api-key-file {path} is no hash.",
                fix=f"Write {HASHED} and 64 hexadecimal digits, as python -m engine.api.keys does.",
            )
        keys.append(line)
    if not keys:
        raise ConfigError(f"--api-key-file {path} holds no key.", fix="Write one key a line.")
    return Keys(tuple(keys))


def _is_hash(line: str) -> bool:
    digits = line.removeprefix(HASHED)
    return len(digits) == 64 and all(digit in "0123456789abcdefABCDEF" for digit in digits)


def main() -> int:
    """Make a key. It is shown once; the file needs only the line."""
    key = "sk-" + secrets.token_urlsafe(32)
    sys.stdout.write(
        f"key for the client, shown only now:\n{key}\nline for the --api-key-file:\n{hashed(key)}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
