"""Weights laid out once give the tokens that plain ones give."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engine.model import packed
from engine.model.fast import use_fast_blocks
from engine.model.packed import PackedLinear, pack_linears
from tests.unit.tiny_models import TinyEngine, generate, greedy, prompts, tiny_model


@pytest.fixture(autouse=True)
def pack_tiny_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_MIN_WEIGHTS", 1)


@pytest.mark.parametrize("num_tokens", [1, 3, 16, 70])
@pytest.mark.parametrize("bias", [False, True])
def test_a_packed_product_equals_the_plain_one(num_tokens: int, bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(96, 33, bias=bias)
    x = torch.randn(num_tokens, 96)
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(linear)(x), linear(x))
        torch.testing.assert_close(PackedLinear(linear)(x[None]), linear(x[None]))


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2"])
def test_packing_changes_no_token_however_many_go_together(name: str) -> None:
    model = tiny_model(name)
    asked = prompts(5, 23, 14)
    expected = [generate(model, prompt, 8) for prompt in asked]
    engine = TinyEngine(model)
    assert use_fast_blocks(model, engine.layers) == 3
    assert pack_linears(model) == 3 * 4 + 1
    for budget in (64, 7):
        assert greedy(*engine.start(budget=budget), asked, 8) == expected


def test_layers_that_run_transformers_code_keep_their_weights() -> None:
    model = tiny_model("llama")
    TinyEngine(model)
    assert pack_linears(model) == 1
    assert isinstance(model.get_output_embeddings(), PackedLinear)


def test_where_the_library_lacks_the_operator_nothing_is_packed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def is_missing(self: PackedLinear, linear: nn.Linear) -> None:
        raise AttributeError("no such operator")

    monkeypatch.setattr(PackedLinear, "__init__", is_missing)
    model = tiny_model("llama")
    TinyEngine(model)
    assert pack_linears(model) == 0
