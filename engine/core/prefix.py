"""Names for full KV blocks: a hash of the tokens in the block and of everything before it.

Two blocks with the same name hold the same keys and values, whichever request computed them. A
128-bit blake2b makes a collision (one user reading another's text) a matter of 2^64 blocks.
"""

from __future__ import annotations

from array import array
from hashlib import blake2b

ROOT = b""
"""The parent of a request's first block."""


def block_hash(parent: bytes, tokens: array[int]) -> bytes:
    """The name of a full block. parent: the name of the block before it, or ROOT."""
    return blake2b(parent + tokens.tobytes(), digest_size=16).digest()


class PrefixChain:
    """The names of one request's full blocks, extended as its tokens grow."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._hashes: list[bytes] = []

    def upto(self, tokens: array[int], num_blocks: int) -> list[bytes]:
        """Names of the first `num_blocks` blocks of `tokens`, all of which must be full."""
        size = self._block_size
        assert num_blocks * size <= len(tokens), f"{num_blocks} × {size} > {len(tokens)} tokens"
        while len(self._hashes) < num_blocks:
            start = len(self._hashes) * size
            parent = self._hashes[-1] if self._hashes else ROOT
            self._hashes.append(block_hash(parent, tokens[start : start + size]))
        return self._hashes[:num_blocks]
