"""Who holds which KV block: reference counts, and the freed blocks whose content may be used again.

A block is in exactly one of four states:

    empty ──take_new──> held ──release, no hash──> empty
                         │ ^
         release, hashed │ │ share (a prefix hit)
                         v │
                        kept ──(oldest first, when no block is empty)──> held by another

Block 0 is the spare one: padding writes there, nobody holds it. This file moves numbers only; the
keys and values are in worker/kvcache.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence


class BlockManager:
    """Hands out the ids 1 … num_blocks - 1."""

    def __init__(self, num_blocks: int) -> None:
        assert num_blocks >= 2, f"{num_blocks} blocks: one is spare, so at least 2 are needed"
        self.num_blocks = num_blocks
        self._empty: deque[int] = deque(range(1, num_blocks))
        self._kept: dict[int, None] = {}  # in the order of their release: the first is the oldest
        self._holders = [0] * num_blocks
        self._hash_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def num_usable(self) -> int:
        """Blocks that one request could hold if it were alone."""
        return self.num_blocks - 1

    @property
    def num_free(self) -> int:
        """Blocks that `take_new` can give, by forgetting kept content where needed."""
        return len(self._empty) + len(self._kept)

    @property
    def num_held(self) -> int:
        return self.num_usable - self.num_free

    def take_new(self, count: int) -> list[int]:
        """Hold `count` blocks of unspecified content. The caller has checked `num_free`."""
        assert count <= self.num_free, f"{count} blocks wanted, {self.num_free} free"
        taken = [self._pop_free() for _ in range(count)]
        for block in taken:
            self._holders[block] = 1
        return taken

    def _pop_free(self) -> int:
        if self._empty:
            return self._empty.popleft()
        oldest = next(iter(self._kept))
        del self._kept[oldest]
        del self._block_of[self._hash_of.pop(oldest)]
        return oldest

    def find(self, hashes: Iterable[bytes]) -> list[int]:
        """The blocks that hold the longest beginning of this chain. Changes nothing."""
        found: list[int] = []
        for name in hashes:
            block = self._block_of.get(name)
            if block is None:
                break
            found.append(block)
        return found

    def num_kept(self, blocks: Iterable[int]) -> int:
        """How many of these are free now, so that sharing them lowers `num_free`."""
        return sum(block in self._kept for block in blocks)

    def share(self, blocks: Iterable[int]) -> None:
        """Hold blocks that `find` returned, beside their other holders if there are any."""
        for block in blocks:
            self._kept.pop(block, None)
            self._holders[block] += 1

    def name(self, block: int, block_hash: bytes) -> None:
        """Let others find this full, computed block. The first block of a name keeps it."""
        assert self._holders[block] > 0, f"block {block} is named but nobody holds it"
        if block_hash not in self._block_of and block not in self._hash_of:
            self._block_of[block_hash] = block
            self._hash_of[block] = block_hash

    def release(self, blocks: Sequence[int]) -> None:
        """Give up one hold on each. The last of a chain goes first, so beginnings live longest."""
        for block in reversed(blocks):
            self._holders[block] -= 1
            assert self._holders[block] >= 0, f"block {block} is released twice"
            if self._holders[block]:
                continue
            if block in self._hash_of:
                self._kept[block] = None
            else:
                self._empty.append(block)

    def check_invariants(self, held: Iterable[Sequence[int]]) -> None:
        """Assert that exactly these block tables hold blocks and that every block is somewhere."""
        holders = [0] * self.num_blocks
        for blocks in held:
            for block in blocks:
                holders[block] += 1
        assert holders == self._holders, f"holders {self._holders}, tables say {holders}"
        assert not holders[0], "the spare block 0 is held"
        free = {*self._empty, *self._kept}
        assert len(free) == self.num_free, "a block is free twice"
        in_use = {block for block, count in enumerate(holders) if count}
        assert free.isdisjoint(in_use), f"free and held: {free & in_use}"
        assert len(free) + len(in_use) == self.num_usable, "a block is lost"
        assert {v: k for k, v in self._block_of.items()} == self._hash_of, "names disagree"
        assert all(block in self._hash_of for block in self._kept), "a kept block has no name"
