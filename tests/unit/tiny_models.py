"""Tiny random models of many architectures, and an engine around one, for tests without files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from engine.core.blocks import BlockManager
from engine.core.messages import SamplingParams
from engine.core.scheduler import Limits, Scheduler
from engine.model.adapt import adapt
from engine.model.merge import merge_siblings
from engine.worker.kvcache import KVCache
from engine.worker.runner import Runner
from engine.worker.sampler import Sampler

VOCAB = 160
MAX_SEQ_LENGTH = 64

_BASE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
_HEADS = {**_BASE, "head_dim": 16}
_WINDOW = {**_HEADS, "sliding_window": 8}
_EXPERTS = {**_HEADS, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_LATENT = {
    **_BASE,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 12,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}

ARCHITECTURES: Mapping[str, dict[str, Any]] = {
    "llama": _HEADS,
    "qwen2": _BASE,
    "qwen3": _HEADS,
    "mistral": _WINDOW,
    "gemma2": {**_WINDOW, "query_pre_attn_scalar": 16},
    "gemma3_text": {**_WINDOW, "layer_types": ["sliding_attention"] * 2 + ["full_attention"]},
    "phi3": _BASE,
    "glm": _HEADS,
    "glm4": _HEADS,
    "olmo2": _BASE,
    "granite": _BASE,
    "gpt_oss": {**_WINDOW, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {**_EXPERTS, "num_experts": 4},
    "qwen2_moe": {**_BASE, "num_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
    "mixtral": {**_BASE, "num_local_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v3": _LATENT,
    "cohere": _BASE,
    "cohere2": {**_BASE, "sliding_window": 8},
    "starcoder2": _BASE,
    "smollm3": _BASE,
    "gpt2": {"n_embd": 48, "n_head": 4, "n_layer": 3, "vocab_size": VOCAB, "eos_token_id": None},
    "olmo3": {**_BASE, "sliding_window": 8},
    "exaone4": {**_BASE, "sliding_window": 8},
}


def tiny_model(name: str) -> PreTrainedModel:
    """A random model, the same each time, with attention as transformers computes it."""
    torch.manual_seed(0)
    config = CONFIG_MAPPING[name](**ARCHITECTURES[name])
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager"
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

    def __init__(self, model: PreTrainedModel, *, merge: bool = True) -> None:
        self.model = model
        self.layers = adapt(model)
        self.num_merged = merge_siblings(model) if merge else 0

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
