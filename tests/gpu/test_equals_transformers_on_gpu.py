"""On a GPU, too, greedy tokens are transformers' own, however requests are batched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from engine.core.blocks import BlockManager
from engine.core.scheduler import Limits, Scheduler
from engine.worker.kvcache import KVCache
from engine.worker.runner import Runner
from engine.worker.sampler import Sampler
from tests.unit.tiny_models import (
    ARCHITECTURES,
    MAX_SEQ_LENGTH,
    TinyEngine,
    generate,
    greedy,
    prompts,
    tiny_model,
)

DEVICE = torch.device("cuda")
COUNT = 8
WAYS: tuple[dict[str, int], ...] = (
    {"budget": 64, "block_size": 16, "num_blocks": 40},
    {"budget": 11, "block_size": 4, "num_blocks": 40},
    {"budget": 32, "block_size": 4, "num_blocks": 15},
)


@pytest.fixture(autouse=True)
def full_float32() -> Iterator[None]:
    """TF32 would round products to 10 bits, and near ties would fall either way."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def on_gpu(engine: TinyEngine, way: dict[str, int]) -> tuple[Scheduler, Runner]:
    block_size, num_blocks = way["block_size"], way["num_blocks"]
    shape: dict[str, Any] = {"num_blocks": num_blocks, "block_size": block_size}
    cache = KVCache(engine.layers, dtype=torch.float32, device=DEVICE, **shape)
    limits = Limits(MAX_SEQ_LENGTH, 8, way["budget"], block_size)
    scheduler = Scheduler(limits, BlockManager(num_blocks))
    return scheduler, Runner(engine.model, cache, Sampler(0), DEVICE)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_greedy_tokens_on_a_gpu_equal_transformers(name: str) -> None:
    model = tiny_model(name)
    asked = prompts(5, 23, 14)
    expected = [generate(model, prompt, COUNT) for prompt in asked]
    engine = TinyEngine(model)
    model.to(DEVICE)
    for way in WAYS:
        assert greedy(*on_gpu(engine, way), asked, COUNT) == expected, way
