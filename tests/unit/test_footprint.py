"""The footprint's formulas against models whose bytes are counted."""

from __future__ import annotations

import subprocess
import sys

import pytest

from engine import footprint
from engine.footprint import DeviceKind, WeightFormat
from engine.model.adapt import adapt
from engine.quant.replace import FORMATS, quantizable_shapes, quantize_loaded
from engine.worker.kvcache import bytes_per_token
from tests.unit.tiny_models import tiny_model

LLAMA = {"num_layers": 3, "hidden_size": 48, "intermediate_size": 64, "num_heads": 4}
HEADS = {"num_kv_heads": 2, "head_dim": 16}


@pytest.mark.parametrize("name", ["none", "int8", "int4"])
def test_predicted_weight_bytes_are_those_of_a_loaded_model(name: str) -> None:
    model = tiny_model("llama")
    num_params = sum(p.numel() for p in model.parameters())
    linears = footprint.decoder_linears(**LLAMA, **HEADS)
    weight_format = WeightFormat.FLOAT32 if name == "none" else WeightFormat(name)
    predicted = footprint.weight_bytes(num_params, weight_format, linears=linears, dtype="float32")
    if name in FORMATS:
        quantize_loaded(model, FORMATS[name])
    tensors = [*model.parameters()]
    for module in model.modules():
        tensors += module.buffers(recurse=False) if type(module) in FORMATS.values() else []
    assert predicted == sum(t.numel() * t.element_size() for t in tensors)


def test_the_linear_weights_of_a_decoder_are_found_in_the_model() -> None:
    predicted = sum(s.num_params for s in footprint.decoder_linears(**LLAMA, **HEADS))
    assert predicted == sum(s.num_params for s in quantizable_shapes(tiny_model("llama")))


def test_a_7b_model_in_bfloat16_takes_between_14_and_15_gib() -> None:
    qwen_parameters = 7_615_616_512
    assert 14 < footprint.weight_bytes(qwen_parameters, WeightFormat.BFLOAT16) / 2**30 < 15


def test_kv_bytes_per_token_are_those_of_the_cache() -> None:
    predicted = footprint.kv_bytes_per_token(num_layers=3, dtype="float32", **HEADS)
    assert predicted == bytes_per_token(adapt(tiny_model("llama")), "float32")


def test_blocks_are_counted_whole_with_one_to_spare() -> None:
    assert footprint.blocks_for(65, 64) == 2
    assert footprint.num_kv_blocks(4, 65, 64) == 9
    assert footprint.kv_bytes(9, 64, 100) == 57_600


def test_a_step_peaks_in_its_layers_or_in_its_logits() -> None:
    def peak(max_batch_tokens: int, vocab_size: int) -> int:
        return footprint.activation_bytes(
            max_batch_tokens=max_batch_tokens,
            vocab_size=vocab_size,
            hidden_size=64,
            intermediate_size=128,
            attention_width=96,
            dtype="float32",
            num_sampled=4,
        )

    assert peak(1024, 10) == 1024 * (64 * 12 + 4 * 128 * 4)
    assert peak(1, 10**6) == 64 * 12 + 4 * 10**6 * 24


def test_a_cpu_engine_takes_at_most_a_quarter_of_the_free_memory_for_kv() -> None:
    assert footprint.default_kv_limit_bytes(2**30) == 2**28
    assert footprint.default_kv_limit_bytes(2**40) == 2 * 2**30


def test_every_kind_of_device_has_a_runtime_size() -> None:
    assert all(footprint.runtime_bytes(kind) > 0 for kind in DeviceKind)


def test_the_footprint_needs_the_standard_library_alone() -> None:
    code = "import sys, engine.footprint; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
