"""The reference attention against attention written down plainly, for every variant it knows."""

from __future__ import annotations

from array import array
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.attention import reference
from engine.attention.metadata import AttentionMetadata, Variant
from engine.core.messages import SamplingParams
from engine.core.request import Request
from engine.core.scheduler import Chunk
from engine.worker.inputs import build_inputs

BLOCK = 4
CPU = torch.device("cpu")


def plain(query: Tensor, key: Tensor, value: Tensor, variant: Variant) -> Tensor:
    """One sequence, one head after the other, one query after the other, in float64."""
    output = torch.zeros(*query.shape[:2], value.shape[2], dtype=torch.float64)
    group, first = query.shape[1] // key.shape[1], key.shape[0] - query.shape[0]
    for row, head in torch.cartesian_prod(
        torch.arange(query.shape[0]), torch.arange(query.shape[1])
    ).tolist():
        end = first + row + 1
        start = max(0, end - variant.sliding_window) if variant.sliding_window else 0
        scores = key[start:end, head // group].double() @ query[row, head].double() * variant.scale
        if variant.softcap:
            scores = torch.tanh(scores / variant.softcap) * variant.softcap
        if variant.sinks is not None:
            scores = torch.cat((scores, variant.sinks[head].double()[None]))
        weights = scores.softmax(0)[: end - start]
        output[row, head] = weights @ value[start:end, head // group].double()
    return output


def chunk(name: str, start: int, end: int, blocks: list[int], *, is_sampled: bool = True) -> Chunk:
    made = Request(
        name, [0] * end, SamplingParams(max_new_tokens=1), max_length=64, block_size=BLOCK
    )
    made.block_ids = array("i", blocks)
    return Chunk(made, start, end, is_sampled)


CHUNKS = (
    chunk("adjoining", 0, 7, [3, 4]),
    chunk("continued", 5, 11, [9, 1, 7]),
    chunk("decoding", 13, 14, [11, 2, 12, 5]),
    chunk("first token", 0, 1, [6]),
)
DECODING = (chunk("a", 13, 14, [3, 9, 1, 12]), chunk("b", 2, 3, [7]), chunk("c", 5, 6, [5, 6]))
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "window": {"sliding_window": 3},
    "wide window": {"sliding_window": 100},
    "softcap": {"softcap": 2.0},
    "sinks": {"sinks": torch.tensor([0.5, -1.0, 2.0, 0.0, 1.0, 0.3])},
    "all": {"sliding_window": 3, "softcap": 2.0, "sinks": torch.ones(6)},
}


def fill(chunks: tuple[Chunk, ...], k_dim: int, v_dim: int) -> tuple[Any, ...]:
    """Queries, caches with all keys and values written through `write_kv`, and the expected."""
    torch.manual_seed(0)
    keys, values = torch.zeros(14, BLOCK, 2, k_dim), torch.zeros(14, BLOCK, 2, v_dim)
    full: list[tuple[Tensor, Tensor]] = []
    for made in chunks:
        key, value = torch.randn(made.end, 2, k_dim), torch.randn(made.end, 2, v_dim)
        whole = build_inputs([Chunk(made.request, 0, made.end, True)], BLOCK, CPU).metadata
        reference.write_kv(key, value, keys, values, whole.slots)
        full.append((key, value))
    query = torch.randn(6, sum(made.num_tokens for made in chunks), k_dim).transpose(0, 1)
    return query, keys, values, full


def metadata_of(chunks: tuple[Chunk, ...]) -> AttentionMetadata:
    return build_inputs(chunks, BLOCK, CPU).metadata


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("k_dim", "v_dim"), [(8, 8), (12, 8)])
def test_a_mixed_batch_equals_attention_written_plainly(
    variant: str, k_dim: int, v_dim: int
) -> None:
    query, keys, values, full = fill(CHUNKS, k_dim, v_dim)
    made = Variant(scale=0.3, **VARIANTS[variant])
    output = reference.attend(query, keys, values, metadata_of(CHUNKS), made)
    parts = query.split([c.num_tokens for c in CHUNKS])
    expected = torch.cat([plain(q, k, v, made) for q, (k, v) in zip(parts, full, strict=True)])
    torch.testing.assert_close(output.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_decoding_all_together_equals_decoding_one_by_one(variant: str) -> None:
    query, keys, values, _ = fill(DECODING, 8, 8)
    made = Variant(scale=0.3, **VARIANTS[variant])
    one_by_one = reference.attend(query, keys, values, metadata_of(DECODING), made)
    together = reference._decode_together(query, keys, values, metadata_of(DECODING), made)
    torch.testing.assert_close(together, one_by_one, atol=1e-5, rtol=1e-5)


def test_half_precision_stays_close_to_float32() -> None:
    query, keys, values, _ = fill(CHUNKS, 8, 8)
    made = Variant(scale=0.3, softcap=2.0)
    exact = reference.attend(query, keys, values, metadata_of(CHUNKS), made)
    halves = [t.bfloat16() for t in (query, keys, values)]
    rounded = reference.attend(halves[0], halves[1], halves[2], metadata_of(CHUNKS), made)
    assert rounded.dtype is torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, atol=3e-2, rtol=3e-2)


def test_inputs_lay_chunks_in_a_row_with_positions_slots_and_sampled_rows() -> None:
    chunks = (CHUNKS[0], chunk("part", 4, 6, [2, 8], is_sampled=False))
    inputs = build_inputs(chunks, BLOCK, CPU)
    assert inputs.position_ids.tolist() == [[0, 1, 2, 3, 4, 5, 6, 4, 5]]
    assert inputs.metadata.slots.tolist() == [12, 13, 14, 15, 16, 17, 18, 32, 33]
    assert inputs.logit_rows.tolist() == [6]
    assert inputs.metadata.cu_query_lengths.tolist() == [0, 7, 9]
    assert inputs.metadata.kv_lengths.tolist() == [7, 6]
    assert inputs.metadata.block_tables.tolist() == [[3, 4], [2, 8]]
    assert [seq.first_block for seq in inputs.metadata.sequences] == [3, None]


def test_a_step_that_ends_no_request_samples_no_row() -> None:
    part = chunk("part", 0, 4, [2], is_sampled=False)
    assert build_inputs([part], BLOCK, CPU).logit_rows.tolist() == []
