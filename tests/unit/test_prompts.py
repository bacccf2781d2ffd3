"""What is told of a prompt equals transformers' own, however it was cut, cached or redone."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.core.messages import PromptPart, SamplingParams
from engine.core.scheduler import Scheduler
from engine.worker.runner import Runner
from tests.unit.tiny_models import TinyEngine, prompts, tiny_model

WAYS: tuple[dict[str, Any], ...] = (
    {"budget": 64, "block_size": 16},
    {"budget": 7, "block_size": 4},
    {"budget": 32, "block_size": 4, "num_blocks": 15, "enable_prefix_cache": False},  # preempts
)


def ask(
    scheduler: Scheduler, runner: Runner, asked: Sequence[list[int]], **sampling: Any
) -> list[list[PromptPart]]:
    """The parts of each prompt that count, after all have ended."""
    for index, prompt in enumerate(asked):
        params = SamplingParams(max_new_tokens=6, temperature=0.0, **sampling)
        scheduler.submit(str(index), prompt, params)
    parts: list[list[PromptPart]] = [[] for _ in asked]
    while scheduler.has_work:
        batch = scheduler.schedule()
        for output in scheduler.commit(batch, runner.run(batch)):
            if output.prompt:
                take(parts[int(output.request_id)], output.prompt)
    scheduler.check_invariants()
    return parts


def take(parts: list[PromptPart], new: list[PromptPart]) -> None:
    for part in new:
        if part.start == 0:
            parts.clear()
        parts.append(part)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_prompt_log_probabilities_equal_transformers(name: str) -> None:
    model = tiny_model(name)
    asked = prompts(5, 23, 14)
    with torch.inference_mode():
        logits = [model(torch.tensor([p]), use_cache=False).logits[0, :-1] for p in asked]
    engine = TinyEngine(model)
    for way in WAYS:
        scheduler, runner = engine.start(**way)
        for _ in range(2):  # the second time, blocks of these prompts are known already
            told = ask(scheduler, runner, asked, prompt_logprobs=2)
            for prompt, parts, expected in zip(asked, told, logits, strict=True):
                entries = [entry for part in parts for entry in part.logprobs or ()]
                check(prompt, entries, expected.log_softmax(-1))


def check(prompt: list[int], entries: list[Any], expected: Tensor) -> None:
    own = expected.gather(1, torch.tensor(prompt[1:])[:, None])[:, 0]
    likeliest = expected.topk(2, -1)
    assert torch.allclose(torch.tensor([entry[0] for entry in entries]), own, atol=1e-4)
    ids = [[token for token, _ in entry[1]] for entry in entries]
    assert ids == likeliest.indices.tolist()


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_pooled_hidden_states_equal_transformers(pooling: str) -> None:
    model = tiny_model("llama")
    asked = prompts(5, 23, 14)
    decoder: Any = model.get_decoder()
    with torch.inference_mode():
        hidden = [decoder(torch.tensor([p]), use_cache=False).last_hidden_state[0] for p in asked]
    engine = TinyEngine(model)
    for way in WAYS:
        told = ask(*engine.start(**way), asked, pooling=pooling)
        for parts, states in zip(told, hidden, strict=True):
            vectors = [list(array("f", part.hidden)) for part in parts if part.hidden]
            expected = states.sum(0) if pooling == "mean" else states[-1]
            assert torch.allclose(torch.tensor(vectors).sum(0), expected, atol=1e-4)


def test_a_prompt_that_is_told_shares_a_step_with_others() -> None:
    scheduler, runner = TinyEngine(tiny_model("llama")).start(budget=8, block_size=4)
    first, second = prompts(20, 20)
    scheduler.submit("1", first, SamplingParams(max_new_tokens=9, temperature=0.0))
    (parts,) = ask(scheduler, runner, [second], prompt_logprobs=0)
    assert len([entry for part in parts for entry in part.logprobs or ()]) == 19
    assert len(parts) > 2


def test_the_first_token_tells_how_long_it_took() -> None:
    now = iter(float(second) for second in range(100))
    scheduler, runner = TinyEngine(tiny_model("llama")).start(budget=4)
    scheduler.clock = lambda: next(now)
    scheduler.submit("a", prompts(8)[0], SamplingParams(max_new_tokens=2, temperature=0.0))
    times: list[list[float] | None] = []
    while scheduler.has_work:
        batch = scheduler.schedule()
        outputs = scheduler.commit(batch, runner.run(batch))
        times += [output.times_s for output in outputs]
    assert times == [[1.0, 1.0], None]
