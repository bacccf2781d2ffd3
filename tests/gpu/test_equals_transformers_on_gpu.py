"""On a GPU, too, greedy tokens are transformers' own, however requests are batched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.unit.architectures import CORE
from tests.unit.tiny_models import (
    TinyEngine,
    generate,
    greedy,
    prompts,
    tiny_model,
)

COUNT = 8
WAYS: tuple[dict[str, Any], ...] = (
    {"budget": 64, "block_size": 16, "num_blocks": 40},
    {"budget": 11, "block_size": 4, "num_blocks": 40},
    {"budget": 32, "block_size": 4, "num_blocks": 15},  # preempts
)


@pytest.fixture(autouse=True)
def full_float32() -> Iterator[None]:
    """TF32 would round products to 10 bits, and near ties would fall either way."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("fast", [False, True], ids=["merge", "fast"])
@pytest.mark.parametrize("name", CORE)
def test_greedy_tokens_on_a_gpu_equal_transformers(name: str, fast: bool) -> None:
    model = tiny_model(name)
    asked = prompts(5, 23, 14)
    expected = [generate(model, prompt, COUNT) for prompt in asked]
    torch.nn.Module.to(model, "cuda")
    engine = TinyEngine(model, fast=fast)
    for way in WAYS:
        assert greedy(*engine.start(**way), asked, COUNT) == expected, way
