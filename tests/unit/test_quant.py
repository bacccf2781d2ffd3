"""int8, int8_dynamic and int4: bounded errors, the promised bytes, and models that still answer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engine.footprint import LinearShape, WeightFormat, linear_bytes
from engine.quant import dynamic, int4
from engine.quant.dynamic import KERNELS, Int8DynamicLinear, Kernel, Plain
from engine.quant.int4 import Int4Linear
from engine.quant.linear import Int8Linear, QuantizedLinear
from engine.quant.replace import (
    FORMATS,
    kept_expert_params,
    pack_weights,
    quantizable_shapes,
    quantize_head,
    quantize_loaded,
    saved_bytes,
)
from tests.unit.tiny_models import TinyEngine, greedy, prompts, tiny_model

KINDS = [Int8Linear, Int4Linear, Int8DynamicLinear]
WEIGHT_ONLY = [Int8Linear, Int4Linear]


def random_linear(out_features: int = 40, in_features: int = 300) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(in_features, out_features)


def num_param_bytes(model: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


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


@pytest.mark.parametrize("kind", WEIGHT_ONLY)
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


def test_a_packed_dynamic_weight_takes_what_the_footprint_promises() -> None:
    quantized = quantize(Int8DynamicLinear, random_linear(in_features=1024))
    promised = linear_bytes(LinearShape(40, 1024), WeightFormat.INT8_DYNAMIC)
    assert num_bytes(quantized) <= promised + 40 * 4
    quantized.pack()
    assert quantized.packed_bytes in (0, promised)
    assert num_bytes(quantized) + quantized.packed_bytes <= promised + 40 * 4


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_int8_kernel_here_computes_the_exact_sum_of_whole_numbers(
    kernel: type[Kernel],
) -> None:
    if not dynamic.is_exact(kernel):
        pytest.skip(f"{kernel.name} is not right on this processor, so it is not used")
    layer = Int8DynamicLinear.quantize(random_linear().weight.data, None)
    x = torch.randn(7, 300)
    scale = x.abs().amax(1, keepdim=True) / 127
    rounded = (x / scale).round().double() * scale
    expected = rounded @ layer.dequantize().double().t()
    product = kernel(layer.weight, layer.scale)(x / scale) * scale
    torch.testing.assert_close(product, expected.float(), rtol=1e-5, atol=1e-5)


def test_a_kernel_that_is_wrong_or_gone_is_not_chosen() -> None:
    class Wrong(Plain):
        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return super().__call__(x) + 1

    class Gone(Plain):
        def __init__(self, weight: torch.Tensor, scale: torch.Tensor) -> None:
            raise AttributeError("_int_mm")

    assert not dynamic.is_exact(Wrong)
    assert not dynamic.is_exact(Gone)
    assert dynamic.is_exact(Plain)


def test_dynamic_int8_rounds_each_token_by_itself() -> None:
    layer, x = quantize(Int8DynamicLinear, random_linear()), torch.randn(2, 5, 300)
    layer.pack()
    x[0, 1] *= 1000
    x[1, 2] = 0
    together = layer(x)
    alone = torch.stack([torch.stack([layer(row[None])[0] for row in rows]) for rows in x])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-5)
    expected = nn.functional.linear(x, random_linear().weight, layer.bias)
    bound = 0.02 * x.norm(dim=-1, keepdim=True)
    assert ((together - expected).abs() <= bound).all()


@pytest.mark.parametrize("kind", KINDS)
def test_packing_changes_where_a_product_is_computed_not_what(kind: type[QuantizedLinear]) -> None:
    layer, x = quantize(kind, random_linear()), torch.randn(2, 9, 300)
    before = layer(x)
    layer.pack()
    assert layer.pack() == layer.pack()
    bound = 2**-6 * 300**0.5 if kind is Int4Linear else 1e-4
    assert (layer(x) - before).abs().max() < bound
    assert layer(x[:, :0]).shape == (2, 0, 40)


def test_int4_keeps_its_plain_product_where_torchs_kernel_is_not_right() -> None:
    assert not int4.is_right(48)


def test_the_head_is_quantized_where_the_format_says_so_even_if_it_is_tied() -> None:
    model = tiny_model("llama")
    model.config.tie_word_embeddings = True
    model.tie_weights()
    assert not quantize_head(model, Int8Linear)
    assert quantize_head(model, Int8DynamicLinear)
    assert not quantize_head(model, Int8DynamicLinear)
    assert isinstance(model.lm_head, Int8DynamicLinear)
    assert type(model.get_input_embeddings()) is nn.Embedding


@pytest.mark.parametrize("is_tied", [False, True])
def test_the_saved_bytes_are_the_difference(is_tied: bool) -> None:
    model = tiny_model("llama")
    model.config.tie_word_embeddings = is_tied
    model.tie_weights()
    full = num_param_bytes(model)
    quantize_loaded(model, Int8DynamicLinear)
    quantize_head(model, Int8DynamicLinear)
    left = num_param_bytes(model) + sum(
        num_bytes(m) for m in model.modules() if isinstance(m, QuantizedLinear)
    )
    assert saved_bytes(model, torch.float32) == full - left


def test_experts_in_one_tensor_stay_and_are_counted() -> None:
    model = tiny_model("qwen3_moe")
    experts = sum(p.numel() for n, p in model.named_parameters() if ".experts." in n)
    assert kept_expert_params(model) == experts > 0
    assert kept_expert_params(tiny_model("llama")) == 0


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
    if name == "int8_dynamic":
        pack_weights(model)
        assert all(greedy(*engine.start(), asked, 8))
        return
    assert greedy(*engine.start(), asked, 8) == greedy(*TinyEngine(exact).start(), asked, 8)
