"""Checkpoints quantized by others: packed here as their formats describe, read, and compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.config import EngineConfig
from engine.errors import ModelError, UnsupportedModel
from engine.model.load import LoadedModel, load_model
from engine.quant.checkpoint import scheme_of
from engine.quant.int4 import Int4Linear
from tests.unit import unmerged
from tests.unit.tiny_models import tiny_model

Parts = dict[str, Tensor]
Format = Callable[[Tensor], tuple[Parts, Tensor]]
"""From a weight [out, in]: what is stored of it, and what it should be read as."""


def pack(values: Tensor, bits: int, order: tuple[int, ...] | None = None) -> Tensor:
    """values: [rows, columns] of whole numbers. Word by word and number by number, in plain Python:
    int32 words along the columns, lowest bits first."""
    per_word = 32 // bits
    order = order or tuple(range(per_word))
    words = []
    for row in values.tolist():
        row += [0] * (-len(row) % per_word)
        for start in range(0, len(row), per_word):
            word = sum(int(row[start + column]) << bits * i for i, column in enumerate(order))
            words.append(word - 2**32 if word >= 2**31 else word)
    return torch.tensor(words, dtype=torch.int32).view(len(values), -1)


def asymmetric(weight: Tensor, bits: int, group: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes [in, out], zeros and scales [groups, out]; group: of each input."""
    codes, count = torch.empty_like(weight.t()), int(group.max()) + 1
    zeros, scales = torch.empty(count, len(weight)), torch.empty(count, len(weight))
    for number in range(count):
        columns = weight.t()[group == number]
        low, high = columns.amin(0).clamp(max=-1e-3), columns.amax(0).clamp(min=1e-3)
        scales[number] = ((high - low) / (2**bits - 1)).half().float()
        zeros[number] = (-low / scales[number]).round().clamp(1, 2**bits - 1)
        codes[group == number] = (columns / scales[number] + zeros[number]).round()
    return codes.clamp(0, 2**bits - 1), zeros, scales


def awq(weight: Tensor) -> tuple[Parts, Tensor]:
    group = torch.arange(weight.shape[1]) // 16
    codes, zeros, scales = asymmetric(weight, 4, group)
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    parts = {"qweight": pack(codes, 4, order), "qzeros": pack(zeros, 4, order)}
    return parts | {"scales": scales.half()}, ((codes - zeros[group]) * scales[group]).t()


def gptq(bits: int, *, is_ordered: bool, less: int = 1) -> Format:
    def build(weight: Tensor) -> tuple[Parts, Tensor]:
        group = torch.arange(weight.shape[1]) // 16
        if is_ordered:
            group = group[torch.randperm(len(group), generator=torch.Generator().manual_seed(1))]
        codes, zeros, scales = asymmetric(weight, bits, group)
        parts = {
            "qweight": pack(codes.t(), bits).t().contiguous(),
            "qzeros": pack(zeros - less, bits),
            "scales": scales.half(),
            "g_idx": group.int(),
        }
        return parts, ((codes - zeros[group]) * scales[group]).t()

    return build


def packed(bits: int, *, has_zeros: bool) -> Format:
    def build(weight: Tensor) -> tuple[Parts, Tensor]:
        group = torch.arange(weight.shape[1]) // 16
        codes, zeros, scales = (t.t() for t in asymmetric(weight, bits, group))
        if not has_zeros:
            zeros = torch.full_like(zeros, 2 ** (bits - 1))
        parts = {
            "weight_packed": pack(codes, bits),
            "weight_scale": scales.contiguous(),
            "weight_shape": torch.tensor(weight.shape),
        }
        if has_zeros:
            parts["weight_zero_point"] = pack(zeros.t(), bits).t().contiguous()
        return parts, (codes - zeros[:, group]) * scales[:, group]

    return build


def int8_rows(weight: Tensor) -> tuple[Parts, Tensor]:
    scale = weight.abs().amax(1, keepdim=True) / 127
    codes = (weight / scale).round()
    return {"weight": codes.to(torch.int8), "weight_scale": scale}, codes * scale


def fp8_blocks(weight: Tensor) -> tuple[Parts, Tensor]:
    rows, columns = -(-weight.shape[0] // 24), -(-weight.shape[1] // 24)
    scale = torch.rand(rows, columns, generator=torch.Generator().manual_seed(0)) / 8 + 1e-3
    spread = scale.repeat_interleave(24, 0).repeat_interleave(24, 1)
    spread = spread[: weight.shape[0], : weight.shape[1]]
    codes = (weight / spread).clamp(-448, 448).to(torch.float8_e4m3fn)
    return {"weight": codes, "weight_scale_inv": scale}, codes.float() * spread


def fp8_whole(weight: Tensor) -> tuple[Parts, Tensor]:
    scale = weight.abs().amax().reshape(1) / 448
    codes = (weight / scale).to(torch.float8_e4m3fn)
    parts = {"weight": codes, "weight_scale": scale, "input_scale": torch.ones(1)}
    return parts, codes.float() * scale


def compressed(layout: str, bits: int) -> dict[str, Any]:
    groups = {"group_0": {"targets": ["Linear"], "weights": {"num_bits": bits}}}
    return {"quant_method": "compressed-tensors", "format": layout, "config_groups": groups}


CASES: dict[str, tuple[dict[str, Any], Format]] = {
    "awq": ({"quant_method": "awq", "bits": 4, "version": "gemm"}, awq),
    "gptq 4": ({"quant_method": "gptq", "bits": 4}, gptq(4, is_ordered=False)),
    "gptq 8": ({"quant_method": "gptq", "bits": 8}, gptq(8, is_ordered=False)),
    "gptq act-order": ({"quant_method": "gptq", "bits": 4}, gptq(4, is_ordered=True)),
    "gptq v2": (
        {"quant_method": "gptq", "bits": 4, "checkpoint_format": "gptq_v2"},
        gptq(4, is_ordered=False, less=0),
    ),
    "w4a16": (compressed("pack-quantized", 4), packed(4, has_zeros=False)),
    "w4a16 asymmetric": (compressed("pack-quantized", 4), packed(4, has_zeros=True)),
    "w8a16": (compressed("pack-quantized", 8), packed(8, has_zeros=False)),
    "w8a8": (compressed("int-quantized", 8), int8_rows),
    "compressed fp8": (compressed("float-quantized", 8), fp8_whole),
    "block fp8": ({"quant_method": "fp8", "weight_block_size": [24, 24]}, fp8_blocks),
}


def save(folder: Path, model_name: str, quantization: dict[str, Any], build: Format) -> Parts:
    """A tiny model whose layers' Linear weights are packed; returns what they should become."""
    model = tiny_model(model_name)
    model.save_pretrained(folder)
    tensors, expected = load_file(folder / "model.safetensors"), Parts()
    for name in [n for n in tensors if n.endswith("_proj.weight")]:
        parts, expected[name] = build(tensors.pop(name))
        module = name.removesuffix("weight")
        tensors |= {module + part: tensor.contiguous() for part, tensor in parts.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    path = folder / "config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"quantization_config": quantization})
    )
    return expected


def load(folder: Path, **options: Any) -> LoadedModel:
    config = EngineConfig(model_path=str(folder), device_map="cpu", **options)
    return load_model(config, lambda *_: None)


@pytest.mark.parametrize("case", CASES)
def test_a_quantized_checkpoint_is_read_as_the_weights_it_stands_for(
    case: str, tmp_path: Path
) -> None:
    expected = save(tmp_path, "llama", *CASES[case])
    parameters = unmerged.tensors(load(tmp_path).model)
    assert len(expected) == 3 * 7
    for name, weight in expected.items():
        torch.testing.assert_close(parameters[name].data, weight, rtol=1e-6, atol=1e-7, msg=name)


def test_quantized_experts_are_fused_after_they_are_read(tmp_path: Path) -> None:
    expected = save(tmp_path, "qwen3_moe", *CASES["block fp8"])
    one = next(name for name in expected if "experts.1.down_proj" in name)
    fused = one.replace("experts.1.down_proj.weight", "experts.down_proj")
    loaded = dict(load(tmp_path).model.named_parameters())[fused]
    torch.testing.assert_close(loaded[1].data, expected[one])


def test_what_was_read_can_be_quantized_again(tmp_path: Path) -> None:
    expected = save(tmp_path, "llama", *CASES["awq"])
    model = load(tmp_path, quantization="int4").model
    name = "model.layers.0.mlp.down_proj"
    layer = model.get_submodule(name)
    assert isinstance(layer, Int4Linear)
    error = (layer.dequantize() - expected[name + ".weight"]).abs().max()
    assert error < expected[name + ".weight"].abs().max() / 10


def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    save(tmp_path, "llama", *CASES["awq"])
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.scales"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj .* no scales"):
        load(tmp_path)


@pytest.mark.parametrize(
    "quantization",
    [
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {"quant_method": "mxfp4"},
        {"quant_method": "gptq", "bits": 3},
        {"quant_method": "awq", "bits": 4, "version": "gemv"},
        compressed("nvfp4-pack-quantized", 4),
        compressed("marlin-24", 4),
        compressed("pack-quantized", 4) | {"sparsity_config": {"format": "sparse-24-bitmask"}},
        {"bits": 4},
    ],
)
def test_other_formats_are_refused_by_name(quantization: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModel, match="llama") as caught:
        scheme_of({"quantization_config": quantization}, "llama")
    assert str(quantization.get("quant_method", "unnamed")) in caught.value.message
    assert "vLLM" in caught.value.fix


def test_a_plain_checkpoint_has_no_scheme() -> None:
    assert scheme_of({"model_type": "llama"}, "llama") is None
