"""Fast blocks: taken where they compute what the layer does, refused where anything differs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from engine.model.adapt import adapt
from engine.model.block import FastBlock
from engine.model.fast import use_fast_blocks
from engine.model.merge import merge_siblings
from engine.model.norm import NotFast, add_rms_norm, read_norm
from engine.model.rope import Form, Rotary
from engine.quant.linear import QuantizedLinear
from engine.quant.replace import FORMATS, quantize_loaded
from tests.unit.tiny_models import TinyEngine, generate, greedy, prompts, tiny_model

FAST = ["llama", "qwen3", "gemma2", "gemma3_text", "phi3", "glm4", "olmo2", "granite", "gpt_oss"]


def fast_layers(model: PreTrainedModel) -> int:
    shapes = adapt(model)
    merge_siblings(model)
    return use_fast_blocks(model, shapes)


def layers_of(model: PreTrainedModel) -> Any:
    return model.get_decoder().layers


@pytest.mark.parametrize("name", FAST)
def test_all_layers_of_common_architectures_are_fast(name: str) -> None:
    assert fast_layers(tiny_model(name)) == 3


@pytest.mark.parametrize("name", ["llama", "gemma2", "qwen3"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_layers_are_fast_in_short_types_too(name: str, dtype: torch.dtype) -> None:
    assert fast_layers(tiny_model(name, dtype)) == 3


def test_weights_are_not_held_twice() -> None:
    model = tiny_model("llama")
    before = {p.data_ptr(): p.numel() for p in model.parameters()}
    fast_layers(model)
    after = {t.data_ptr(): t.numel() for t in (*model.parameters(), *model.buffers())}
    assert sum(after.values()) <= sum(before.values()) + 100  # rotary frequencies


def _scale_the_residual(layer: Any) -> Callable[..., Tensor]:
    original = layer.forward
    return lambda *args, **kwargs: original(*args, **kwargs) * 1.01


def _clip_large_values(layer: Any) -> Callable[..., Tensor]:
    original = layer.forward

    def forward(hidden_states: Tensor, **kwargs: Any) -> Tensor:
        return original(hidden_states.clamp(-20, 20), **kwargs)

    return forward


def _forget_far_positions(layer: Any) -> Callable[..., Tensor]:
    original = layer.forward

    def forward(hidden_states: Tensor, position_ids: Tensor, **kwargs: Any) -> Tensor:
        is_far = (position_ids > 100)[..., None]
        return original(torch.where(is_far, hidden_states * 1.1, hidden_states), **kwargs)

    return forward


@pytest.mark.parametrize("change", [_scale_the_residual, _clip_large_values, _forget_far_positions])
def test_a_layer_that_computes_something_else_keeps_its_own_code(
    change: Callable[[Any], Callable[..., Tensor]], caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_model("llama")
    odd = layers_of(model)[1]
    odd.forward = change(odd)
    with caplog.at_level(logging.INFO):
        assert fast_layers(model) == 2
    assert layers_of(model)[1] is odd
    assert isinstance(layers_of(model)[0], FastBlock)
    assert "2 of 3 layers are fast" in caplog.text
    assert "1 layers keep transformers' code" in caplog.text


def test_an_unknown_part_of_a_layer_is_named(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model("llama")
    layers_of(model)[0].self_attn.gate = nn.Linear(48, 48)
    with caplog.at_level(logging.INFO):
        assert fast_layers(model) == 2
    assert "attention consists of" in caplog.text
    assert "gate" in caplog.text


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_quantized_layers_are_fast_with_the_same_tokens(quantization: str) -> None:
    asked = prompts(5, 14)
    answers = []
    for fast in (False, True):
        model = tiny_model("llama")
        quantize_loaded(model, FORMATS[quantization])
        engine = TinyEngine(model, fast=fast)
        assert engine.num_fast == (3 if fast else 0)
        assert any(isinstance(m, QuantizedLinear) for m in model.modules())
        answers.append(greedy(*engine.start(), asked, 8))
    assert answers[0] == answers[1]


def test_batches_and_blocks_do_not_change_what_one_request_is_answered() -> None:
    engine = TinyEngine(tiny_model("qwen3"), fast=True)
    asked = prompts(5, 23, 14, 9)
    alone = [greedy(*engine.start(), [prompt], 8)[0] for prompt in asked]
    for block_size in (1, 4, 16):
        for budget in (7, 64):
            start = engine.start(block_size=block_size, budget=budget, num_blocks=200)
            assert greedy(*start, asked, 8) == alone, (block_size, budget)


def test_a_model_without_a_list_of_layers_is_served_as_it_is() -> None:
    model = tiny_model("gpt2")
    expected = generate(model, prompts(9)[0], 6)
    engine = TinyEngine(model, fast=True)
    assert engine.num_fast == 0
    assert greedy(*engine.start(), prompts(9), 6) == [expected]


@pytest.mark.parametrize("kind", [LlamaRMSNorm, Gemma2RMSNorm])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_forms_of_the_rms_norm_are_told_apart(
    kind: type[nn.Module], dtype: torch.dtype
) -> None:
    norm = kind(32).to(dtype)
    nn.init.normal_(norm.weight, std=0.5)  # type: ignore[arg-type]  # a parameter
    x = torch.randn(5, 32, dtype=dtype)
    torch.testing.assert_close(read_norm(norm)(x), norm(x), rtol=0.02, atol=0.02)


def test_a_layer_norm_is_no_rms_norm() -> None:
    with pytest.raises(NotFast, match="LayerNorm is no RMS norm"):
        read_norm(nn.LayerNorm(32))
    with pytest.raises(NotFast, match="LayerNorm is no RMS norm"):
        read_norm(nn.LayerNorm(32, bias=False))


def test_adding_and_norming_gives_both() -> None:
    norm = read_norm(LlamaRMSNorm(8))
    x, residual = torch.randn(2, 3, 8)
    normed, total = add_rms_norm(x, residual, norm)
    torch.testing.assert_close(total, x + residual)
    torch.testing.assert_close(normed, norm(x + residual))


@pytest.mark.parametrize("form", list(Form))
def test_a_rotation_turns_each_pair_by_its_angle(form: Form) -> None:
    """Against complex numbers; the last four of twelve dimensions stay."""
    angles = torch.randn(3, 4)
    cos, sin = angles.cos()[None], angles.sin()[None]
    if form in (Form.HALF, Form.INTERLEAVED):
        cos, sin = cos.repeat(1, 1, 2), sin.repeat(1, 1, 2)
    elif form is Form.PAIRED:
        cos, sin = cos.repeat_interleave(2, -1), sin.repeat_interleave(2, -1)
    x = torch.randn(3, 2, 12)
    first, second = slice(0, 4), slice(4, 8)
    if form in (Form.INTERLEAVED, Form.PAIRED):
        first, second = slice(0, 8, 2), slice(1, 8, 2)
    expected = x.clone()
    if form is not Form.NONE:
        turned = torch.complex(x[..., first], x[..., second]) * torch.exp(1j * angles)[:, None]
        expected[..., first], expected[..., second] = turned.real, turned.imag
    torch.testing.assert_close(Rotary(form, 12)(x, (cos, sin)), expected)
