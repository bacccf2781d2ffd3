"""The block manager: what is handed out, shared, kept and given back."""

from __future__ import annotations

from array import array

import pytest

from engine.core.blocks import BlockManager
from engine.core.prefix import ROOT, PrefixChain, block_hash


def test_the_spare_block_is_never_handed_out() -> None:
    blocks = BlockManager(5)
    assert sorted(blocks.take_new(4)) == [1, 2, 3, 4]
    assert blocks.num_free == 0


def test_unnamed_blocks_are_empty_after_their_release() -> None:
    blocks = BlockManager(5)
    taken = blocks.take_new(3)
    blocks.release(taken)
    assert blocks.num_free == 4
    assert blocks.find([b"a"]) == []
    blocks.check_invariants([])


def test_a_named_block_is_found_again_after_its_release() -> None:
    blocks = BlockManager(5)
    (block,) = blocks.take_new(1)
    blocks.name(block, b"a")
    blocks.release([block])
    assert blocks.find([b"a", b"b"]) == [block]
    assert blocks.num_kept([block]) == 1
    blocks.share([block])
    assert blocks.num_free == 3
    blocks.check_invariants([[block]])


def test_kept_blocks_are_forgotten_oldest_first_and_only_when_no_block_is_empty() -> None:
    blocks = BlockManager(4)
    a, b, c = blocks.take_new(3)
    for block, name in ((a, b"a"), (b, b"b")):
        blocks.name(block, name)
    blocks.release([a])
    blocks.release([b])
    blocks.release([c])
    assert blocks.take_new(1) == [c]
    assert blocks.take_new(1) == [a]
    assert blocks.find([b"a"]) == []
    assert blocks.find([b"b"]) == [b]


def test_the_end_of_a_chain_is_forgotten_before_its_beginning() -> None:
    blocks = BlockManager(3)
    first, second = blocks.take_new(2)
    blocks.name(first, b"a")
    blocks.name(second, b"b")
    blocks.release([first, second])
    assert blocks.take_new(1) == [second]
    assert blocks.find([b"a"]) == [first]


def test_a_shared_block_is_free_only_when_both_gave_it_back() -> None:
    blocks = BlockManager(3)
    (block,) = blocks.take_new(1)
    blocks.name(block, b"a")
    blocks.share([block])
    blocks.release([block])
    assert blocks.num_free == 1
    blocks.release([block])
    assert blocks.num_free == 2


def test_the_first_block_of_a_name_keeps_it() -> None:
    blocks = BlockManager(3)
    one, two = blocks.take_new(2)
    blocks.name(one, b"a")
    blocks.name(two, b"a")
    assert blocks.find([b"a"]) == [one]
    blocks.release([one, two])
    blocks.check_invariants([])


def test_releasing_twice_is_a_bug_that_is_noticed() -> None:
    blocks = BlockManager(3)
    taken = blocks.take_new(1)
    blocks.release(taken)
    with pytest.raises(AssertionError, match="released twice"):
        blocks.release(taken)


def test_a_lost_block_is_noticed() -> None:
    blocks = BlockManager(3)
    blocks.take_new(1)
    with pytest.raises(AssertionError):
        blocks.check_invariants([])


def test_a_blocks_name_depends_on_all_tokens_before_it() -> None:
    tokens = array("i", range(8))
    names = PrefixChain(4).upto(tokens, 2)
    assert names[0] == block_hash(ROOT, tokens[:4])
    assert names[1] == block_hash(names[0], tokens[4:])
    other = PrefixChain(4).upto(array("i", [9, *range(1, 8)]), 2)
    assert other[1] != names[1]


def test_a_chain_grows_without_being_computed_again() -> None:
    chain = PrefixChain(2)
    tokens = array("i", [1, 2, 3])
    first = chain.upto(tokens, 1)
    tokens.append(4)
    assert chain.upto(tokens, 2)[:1] == first
