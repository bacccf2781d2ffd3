from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import EngineConfig
from panel.errors import NotFound, PanelError
from panel.hardware.machine import Gpu, Machine
from panel.models.catalog import catalog
from panel.models.shape import ModelShape, shape_of_config, shape_of_source
from panel.models.source import parse
from panel.sizing.device import device_of
from panel.sizing.fit import Fit, Precision, Verdict, size, sizes
from panel.sizing.wording import sentence, summary
from panel.sizing.workload import MAX_PARALLEL, Workload

GIB = 2**30
BLOCK = EngineConfig.block_size
SHAPES = {e.name: shape_of_config(e.config, e.name, counted=e.counted) for e in catalog()}
QWEN_7B = SHAPES["Qwen2.5-7B-Instruct"]


def machine(*gpu_gib: float, ram_gib: float = 32, **values: object) -> Machine:
    gpus = tuple(
        Gpu(i, f"GPU {gib:g}", f"GPU-{i}", int(gib * GIB), int(gib * GIB) - GIB // 4, (8, 6))
        for i, gib in enumerate(gpu_gib)
    )
    facts = Machine(
        hostname="here",
        os_name="Linux",
        kernel="6",
        cpu_name="A CPU",
        cpu_cores=8,
        ram_bytes=int(ram_gib * GIB),
        ram_available_bytes=int(ram_gib * GIB * 0.9),
        disk_free_bytes=100 * GIB,
        gpus=gpus,
    )
    return replace(facts, **values)  # type: ignore[arg-type]  # any field by name


shapes = st.sampled_from(list(SHAPES.values()))
precisions = st.sampled_from(list(Precision))
machines = st.one_of(
    st.floats(2, 200).map(lambda gib: machine(gib)),
    st.floats(2, 200).map(lambda gib: machine(ram_gib=gib)),
)
workloads = st.builds(Workload, st.integers(16, 32768), st.integers(1, 64))


@pytest.mark.parametrize(
    ("precision", "verdict"),
    [
        (Precision.BFLOAT16, Verdict.TOO_LARGE),
        (Precision.INT8, Verdict.FITS),
        (Precision.INT4, Verdict.FITS),
    ],
)
def test_a_7b_model_fits_a_16_gb_card_only_quantized(
    precision: Precision, verdict: Verdict
) -> None:
    assert size(QWEN_7B, machine(16), Workload(), precision).verdict is verdict


def test_a_7b_model_in_bfloat16_has_14_to_15_gib_of_weights() -> None:
    fit = size(QWEN_7B, machine(24), Workload(), Precision.BFLOAT16)
    assert 14 * GIB < fit.weight_bytes < 15 * GIB
    assert fit.verdict is Verdict.FITS


def test_the_parts_add_up_and_the_kv_cache_holds_what_was_asked() -> None:
    fit = size(QWEN_7B, machine(40), Workload(8192, 4), Precision.BFLOAT16)
    parts = fit.weight_bytes + fit.kv_bytes + fit.activation_bytes + fit.runtime_bytes
    assert fit.total_bytes == parts
    assert fit.headroom_bytes == fit.budget_bytes - fit.total_bytes
    assert fit.kv_bytes == (8192 * 4 + BLOCK) * 57_344


def test_a_gpu_gives_its_fraction_less_what_others_hold() -> None:
    busy = Gpu(0, "Busy", "GPU-0", 24 * GIB, 14 * GIB, (8, 6))
    device = device_of(machine(gpus=(busy,)))
    assert device.budget_bytes == int(0.9 * 24 * GIB) - 10 * GIB


def test_a_gpu_that_others_fill_has_no_budget_at_all() -> None:
    full = Gpu(0, "Full", "GPU-0", 24 * GIB, 0, (8, 6))
    fit = size(QWEN_7B, machine(gpus=(full,)), Workload(), Precision.INT4)
    assert (fit.budget_bytes, fit.verdict) == (0, Verdict.TOO_LARGE)
    assert (fit.max_context_tokens, fit.max_parallel_requests) == (0, 0)


def test_the_gpu_with_most_free_memory_is_taken_unless_one_is_named() -> None:
    two = machine(16, 24)
    assert device_of(two).name == "GPU 24"
    assert device_of(two, 0).name == "GPU 16"
    with pytest.raises(NotFound, match="no GPU 7"):
        device_of(two, 7)


def test_without_a_gpu_the_available_memory_is_the_budget() -> None:
    here = machine(ram_gib=32, ram_available_bytes=10 * GIB)
    assert device_of(here).budget_bytes == 10 * GIB
    assert size(QWEN_7B, here, Workload(), Precision.FLOAT32).verdict is Verdict.TOO_LARGE


def test_on_a_cpu_quantized_models_keep_float32_beside_the_linears() -> None:
    fits = sizes(SHAPES["SmolLM2-135M-Instruct"], machine(), Workload())
    assert fits[Precision.FLOAT32].weight_bytes == 134_515_008 * 4
    assert fits[Precision.INT8].kv_bytes_per_token == fits[Precision.FLOAT32].kv_bytes_per_token
    assert fits[Precision.INT4].weight_bytes < fits[Precision.INT8].weight_bytes


def test_a_context_beyond_the_model_is_too_large_with_its_limit_named() -> None:
    fit = size(QWEN_7B, machine(80), Workload(40_000, 1), Precision.BFLOAT16)
    assert fit.verdict is Verdict.TOO_LARGE
    assert fit.max_context_tokens == 32_768
    assert "32,768" in " ".join(sentence(note) for note in fit.notes)


def test_little_headroom_is_called_tight() -> None:
    roomy = size(QWEN_7B, machine(24), Workload(), Precision.BFLOAT16)
    asked = Workload(4096, roomy.max_parallel_requests)
    assert size(QWEN_7B, machine(24), asked, Precision.BFLOAT16).verdict is Verdict.TIGHT


def test_an_old_gpu_and_a_cpu_without_bfloat16_are_noted() -> None:
    turing = Gpu(0, "T4", "GPU-0", 15 * GIB, 15 * GIB, (7, 5))
    codes = {n.code for n in _bfloat16(machine(gpus=(turing,))).notes}
    assert "gpu_without_bfloat16" in codes
    assert "cpu_without_bfloat16" in {n.code for n in _bfloat16(machine()).notes}
    modern = machine(cpu_flags=("avx512_bf16",))
    assert "cpu_without_bfloat16" not in {n.code for n in _bfloat16(modern).notes}


def _bfloat16(here: Machine) -> Fit:
    return size(QWEN_7B, here, Workload(), Precision.BFLOAT16)


@given(shapes, machines, workloads, precisions)
@settings(max_examples=60, deadline=None)
def test_every_fit_survives_json_and_every_note_has_a_sentence(
    shape: ModelShape, here: Machine, workload: Workload, precision: Precision
) -> None:
    fit = size(shape, here, workload, precision)
    assert Fit.from_dict(json.loads(json.dumps(fit.to_dict()))) == fit
    assert all(sentence(note) for note in fit.notes)
    assert fit.device_name in summary(fit)


@given(shapes, machines, workloads, precisions, st.integers(0, 5000))
@settings(max_examples=60, deadline=None)
def test_more_context_never_needs_less_memory(
    shape: ModelShape, here: Machine, workload: Workload, precision: Precision, more: int
) -> None:
    longer = replace(workload, context_tokens=workload.context_tokens + more)
    before = size(shape, here, workload, precision)
    after = size(shape, here, longer, precision)
    assert after.total_bytes >= before.total_bytes
    assert after.max_parallel_requests <= before.max_parallel_requests


@given(shapes, machines, workloads, precisions)
@settings(max_examples=60, deadline=None)
def test_the_largest_context_fits_and_one_block_more_does_not(
    shape: ModelShape, here: Machine, workload: Workload, precision: Precision
) -> None:
    most = size(shape, here, workload, precision).max_context_tokens
    if most >= 16:
        asked = replace(workload, context_tokens=most)
        assert size(shape, here, asked, precision).headroom_bytes >= 0
    if most < shape.max_positions:
        beyond = replace(workload, context_tokens=most + BLOCK)
        assert size(shape, here, beyond, precision).headroom_bytes < 0


@given(shapes, machines, workloads, precisions)
@settings(max_examples=60, deadline=None)
def test_the_most_parallel_requests_fit_and_one_more_does_not(
    shape: ModelShape, here: Machine, workload: Workload, precision: Precision
) -> None:
    most = size(shape, here, workload, precision).max_parallel_requests
    if most:
        asked = replace(workload, parallel_requests=most)
        assert size(shape, here, asked, precision).headroom_bytes >= 0
    if most < MAX_PARALLEL:
        beyond = replace(workload, parallel_requests=most + 1)
        assert size(shape, here, beyond, precision).headroom_bytes < 0


@pytest.mark.parametrize(("context", "parallel"), [(0, 1), (15, 1), (64, 0), (64, 1025)])
def test_an_impossible_workload_is_refused(context: int, parallel: int) -> None:
    with pytest.raises(PanelError):
        Workload(context, parallel)


def test_the_demo_fits_a_small_laptop(tmp_path: Path) -> None:
    shape = shape_of_source(parse("demo"), tmp_path)
    fit = size(shape, machine(ram_gib=4), Workload(), Precision.FLOAT32)
    assert fit.verdict is Verdict.FITS
    assert fit.total_bytes < 3 * GIB
