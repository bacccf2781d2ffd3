"""Weight-only int8 and int4: bounded errors, the promised bytes, and models that still answer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engine.footprint import LinearShape, WeightFormat, linear_bytes
from engine.quant.linear import Int4Linear, Int8Linear, QuantizedLinear
from engine.quant.replace import FORMATS, quantizable_shapes, quantize_loaded
from tests.unit.tiny_models import TinyEngine, greedy, prompts, tiny_model

KINDS = [Int8Linear, Int4Linear]


def random_linear(out_features: int = 40, in_features: int = 300) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(in_features, out_features)


def num_bytes(layer: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in layer.buffers())


def quantize(kind: type[QuantizedLinear], linear: nn.Linear) -> QuantizedLinear:
    return kind.quantize(linear.weight.data, linear.bias.data)


def test_int8_is_off_by_at_most_half_a_step_of_its_row() -> None:
    linear = random_linear()
    error = (quantize(Int8Linear, linear).dequantize() - linear.weight).abs().amax(1)
    assert (error <= linear.weight.abs().amax(1) / 127 / 2 * 1.001).all()


def test_int4_is_off_by_at_most_one_step_of_its_group() -> None:
    linear = random_linear(in_features=256)
    quantized = quantize(Int4Linear, linear)
    error = (quantized.dequantize() - linear.weight).abs().view(40, 2, 128).amax(-1)
    step = linear.weight.view(40, 2, 128).detach()
    step = (step.amax(-1) - step.amin(-1)) / 15
    assert (error <= step * 1.001).all()
    assert error.mean() < step.mean() * 0.6


@pytest.mark.parametrize("kind", KINDS)
def test_the_forward_pass_is_the_dequantized_weights(kind: type[QuantizedLinear]) -> None:
    quantized, x = quantize(kind, random_linear()), torch.randn(3, 5, 300)
    expected = nn.functional.linear(x, quantized.dequantize(), quantized.bias)
    torch.testing.assert_close(quantized(x), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_zeros_stays_zero(kind: type[QuantizedLinear]) -> None:
    assert not kind.quantize(torch.zeros(4, 128), None).dequantize().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kind", "name"), [(Int8Linear, "int8"), (Int4Linear, "int4")])
def test_the_bytes_are_those_that_the_footprint_promises(
    kind: type[QuantizedLinear], name: str, dtype: torch.dtype
) -> None:
    quantized = kind.quantize(random_linear().weight.data.to(dtype), None)
    promised = linear_bytes(
        LinearShape(40, 300), WeightFormat(name), str(dtype).removeprefix("torch.")
    )
    assert num_bytes(quantized) == promised


@pytest.mark.parametrize("kind", KINDS)
def test_concatenated_layers_compute_what_they_computed_apart(kind: type[QuantizedLinear]) -> None:
    one, two = quantize(kind, random_linear()), quantize(kind, random_linear(8))
    both, x = kind.concatenate([one, two]), torch.randn(2, 300)
    assert both.out_features == 48
    torch.testing.assert_close(both(x), torch.cat((one(x), two(x)), -1), atol=1e-5, rtol=1e-5)


def test_embeddings_head_and_norms_stay_as_they_are() -> None:
    model = tiny_model("llama")
    assert len(quantizable_shapes(model)) == 3 * 7
    assert quantize_loaded(model, Int8Linear) == 3 * 7
    assert type(model.lm_head) is nn.Linear
    assert quantize_loaded(model, Int8Linear) == 0


@pytest.mark.parametrize("name", FORMATS)
def test_a_quantized_model_computes_what_its_dequantized_weights_compute(name: str) -> None:
    asked = prompts(5, 23, 14)
    model, exact = tiny_model("qwen2"), tiny_model("qwen2")
    quantize_loaded(model, FORMATS[name])
    for path, module in model.named_modules():
        if isinstance(module, QuantizedLinear):
            linear = exact.get_submodule(path)
            linear.weight = nn.Parameter(module.dequantize().clone())
    engine = TinyEngine(model)
    assert engine.num_merged == 6
    assert greedy(*engine.start(), asked, 8) == greedy(*TinyEngine(exact).start(), asked, 8)
