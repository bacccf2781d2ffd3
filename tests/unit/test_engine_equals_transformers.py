"""The promise the engine stands on: its greedy tokens are transformers' own, however it batches.

Each architecture is asked three prompts together and compared with `generate` on the same weights,
twice: with merged siblings and with fast blocks. The core set is asked once for each way of cutting
and storing the prompts, the others once. Everything runs on one thread of a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from engine.errors import UnsupportedModel
from engine.model import adapt
from tests.unit.architectures import CORE, OTHERS, REFUSED, tiny_config
from tests.unit.tiny_models import (
    TinyEngine,
    generate,
    greedy,
    prompts,
    tiny_model,
)

COUNT = 8
LENGTHS = (5, 23, 14)
WAYS: tuple[dict[str, Any], ...] = (
    {"budget": 64, "block_size": 16},
    {"budget": 11, "block_size": 4},
    {"budget": 7, "block_size": 1, "num_blocks": 200},
    {"budget": 16, "block_size": 4, "max_num_seqs": 2},
)
PREEMPTING = {"budget": 32, "block_size": 4, "num_blocks": 15, "enable_prefix_cache": False}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("fast", [False, True], ids=["merge", "fast"])
@pytest.mark.parametrize("name", CORE)
def test_greedy_tokens_equal_transformers_however_they_are_batched(name: str, fast: bool) -> None:
    model = tiny_model(name)
    asked = prompts(*LENGTHS)
    expected = [generate(model, prompt, COUNT) for prompt in asked]
    engine = TinyEngine(model, fast=fast)
    for way in WAYS:
        assert greedy(*engine.start(**way), asked, COUNT) == expected, way

    scheduler, runner = engine.start(block_size=4)
    greedy(scheduler, runner, asked, COUNT)
    assert greedy(scheduler, runner, asked, COUNT) == expected, "after prefix hits"
    assert scheduler.counters.cached_tokens > 30

    scheduler, runner = engine.start(**PREEMPTING)
    assert greedy(scheduler, runner, asked, COUNT) == expected, "after preemption"
    assert scheduler.counters.preemptions > 0


@pytest.mark.parametrize("name", OTHERS)
def test_many_more_architectures_equal_transformers_merged_and_fast(name: str) -> None:
    model = tiny_model(name)
    asked = prompts(*LENGTHS)
    expected = [generate(model, prompt, COUNT) for prompt in asked]
    merged = TinyEngine(model)
    assert greedy(*merged.start(budget=11), asked, COUNT) == expected, "merged"
    fast = TinyEngine(model, merge=False, fast=True)
    assert greedy(*fast.start(budget=11), asked, COUNT) == expected, "fast"


def test_at_least_sixty_architectures_are_compared() -> None:
    assert len({*CORE, *OTHERS}) >= 60


def check(name: str) -> None:
    """What loading asks of a model before it is served."""
    adapt.check_config(tiny_config(name))
    model = tiny_model(name)
    adapt.check_class(type(model), name)
    adapt.adapt(model)


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_engine_cannot_serve_is_refused_by_name_and_sent_to_vllm(name: str) -> None:
    with pytest.raises(UnsupportedModel, match=REFUSED[name]) as caught:
        check(name)
    assert name in caught.value.message
    assert "vLLM" in caught.value.fix


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2", "granite"])
def test_merging_computes_siblings_once_and_changes_no_token(name: str) -> None:
    asked = prompts(*LENGTHS)
    plain = TinyEngine(tiny_model(name), merge=False)
    merged = TinyEngine(tiny_model(name))
    assert merged.num_merged == 6
    assert greedy(*plain.start(), asked, COUNT) == greedy(*merged.start(), asked, COUNT)


def test_scattered_blocks_give_the_same_tokens_as_adjoining_ones() -> None:
    model = tiny_model("llama")
    asked = prompts(*LENGTHS)
    expected = [generate(model, prompt, COUNT) for prompt in asked]
    scheduler, runner = TinyEngine(model).start(enable_prefix_cache=False)
    taken = scheduler.blocks.take_new(30)
    scheduler.blocks.release(taken[::2])
    scheduler.blocks.release(taken[1::2])
    assert greedy(scheduler, runner, asked, COUNT) == expected
