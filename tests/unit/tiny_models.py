"""Tiny random models of many architectures, and an engine around one, for tests without files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from engine.core.blocks import BlockManager
from engine.core.messages import SamplingParams
from engine.core.scheduler import Limits, Scheduler
from engine.model.adapt import adapt
from engine.model.fast import use_fast_blocks
from engine.model.merge import merge_siblings
from engine.worker.kvcache import KVCache
from engine.worker.runner import Runner
from engine.worker.sampler import Sampler
from tests.unit.architectures import VOCAB, tiny_config

MAX_SEQ_LENGTH = 64


def tiny_model(name: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A random model, the same each time, with attention as transformers computes it."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        tiny_config(name), dtype=dtype, attn_implementation="eager"
    ).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return model


def prompts(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, VOCAB, (n,), generator=generator).tolist() for n in lengths]


def generate(model: PreTrainedModel, prompt: Sequence[int], count: int) -> list[int]:
    """What transformers itself answers, greedily."""
    config = GenerationConfig(max_new_tokens=count, do_sample=False, pad_token_id=0)
    ids = torch.tensor([list(prompt)])
    output: Any = model.generate(ids, generation_config=config)  # pyright: ignore[reportCallIssue]  # its decorated type is not callable
    return output[0, len(prompt) :].tolist()


class TinyEngine:
    """Scheduler, cache and runner around one model, without sockets or files."""

    def __init__(self, model: PreTrainedModel, *, merge: bool = True, fast: bool = False) -> None:
        self.model = model
        self.layers = adapt(model)
        self.num_merged = merge_siblings(model) if merge else 0
        self.num_fast = use_fast_blocks(model, self.layers) if fast else 0

    def start(
        self,
        *,
        num_blocks: int = 40,
        block_size: int = 4,
        budget: int = 64,
        max_num_seqs: int = 8,
        enable_prefix_cache: bool = True,
        num_threads: int | None = None,
    ) -> tuple[Scheduler, Runner]:
        device = next(self.model.parameters()).device
        cache = KVCache(
            self.layers,
            num_blocks=num_blocks,
            block_size=block_size,
            dtype=torch.float32,
            device=device,
        )
        limits = Limits(
            MAX_SEQ_LENGTH, max_num_seqs, budget, block_size, VOCAB, enable_prefix_cache
        )
        scheduler = Scheduler(limits, BlockManager(num_blocks))
        return scheduler, Runner(self.model, cache, Sampler(0), device, num_threads=num_threads)


def drain(scheduler: Scheduler, runner: Runner) -> dict[str, list[int]]:
    """Run until every request has ended: its tokens by its name."""
    answers: dict[str, list[int]] = {}
    while scheduler.has_work:
        batch = scheduler.schedule()
        for output in scheduler.commit(batch, runner.run(batch)):
            answers.setdefault(output.request_id, []).extend(output.token_ids)
        scheduler.check_invariants()
    return answers


def greedy(
    scheduler: Scheduler, runner: Runner, asked: Sequence[Sequence[int]], count: int
) -> list[list[int]]:
    """The greedy answers to all prompts, computed together."""
    for number, prompt in enumerate(asked):
        sampling = SamplingParams(max_new_tokens=count, temperature=0)
        scheduler.submit(str(number), prompt, sampling)
    answers = drain(scheduler, runner)
    return [answers[str(number)] for number in range(len(asked))]
