"""Puts an engine together: model, KV cache, scheduler and runner, warmed up and measured."""

from __future__ import annotations

import logging
import os
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from engine import footprint
from engine.attention import reference
from engine.config import EngineConfig
from engine.core.blocks import BlockManager
from engine.core.messages import Ready, SamplingParams
from engine.core.scheduler import Limits, Scheduler
from engine.model.adapt import LayerShape, adapt, usable_length
from engine.model.device import dtype_name, free_bytes
from engine.model.fast import use_fast_blocks
from engine.model.load import LoadedModel, load_model, stored_bytes
from engine.model.packed import pack_linears
from engine.model.parallel import WHOLE, Rank, connect, device_map, join, smallest, total
from engine.model.tokenizer import grammar_tokenizer
from engine.quant.replace import pack_weights, saved_bytes
from engine.structured import LlguidanceCompiler
from engine.worker.group import Group
from engine.worker.kvcache import KVCache, bytes_per_token, choose_num_blocks
from engine.worker.masks import Masks
from engine.worker.runner import Runner
from engine.worker.sampler import Sampler

logger = logging.getLogger("engine.load")

Report = Callable[[str, float, str], None]
"""Told the stage ("load" or "warm_up"), the share done and a few words."""

_CPU_WARM_UP_TOKENS = 16
"""A GPU is warmed up with a whole step's tokens, which also proves that they fit; on a CPU that
would take minutes for a 7B model and proves nothing."""


@dataclass(frozen=True, slots=True)
class Engine:
    scheduler: Scheduler
    runner: Runner
    ready: Ready


@dataclass(frozen=True, slots=True)
class Built:
    """What every rank has before it computes. vocab_size: of the embedding."""

    loaded: LoadedModel
    layers: Sequence[LayerShape]
    num_fast: int
    cache: KVCache
    max_seq_length: int
    vocab_size: int
    runner: Runner
    weight_bytes: int
    kv_bytes: int


def assemble(config: EngineConfig, report: Report, group: Group | None = None) -> Engine:
    """Load, allocate and warm up, as the first of a group's ranks or alone.

    Raises ModelError, ConfigError.
    """
    started = time.monotonic()
    rank = Rank(0, group.world_size) if group else WHOLE
    built = build(config, report, rank, group)
    if group:
        group.met()
    loaded, cache = built.loaded, built.cache
    limits = _limits(config, min(built.max_seq_length, cache.num_tokens), built.vocab_size)
    load_s = time.monotonic() - started
    report("warm_up", 0.0, "First tokens")
    warm_up_s = _warm_up(built.runner, cache, limits, loaded.device)
    report("warm_up", 1.0, f"Warm after {warm_up_s:.1f} s")
    ready = Ready(
        model_type=loaded.model.config.model_type,
        device=_device_name(loaded.device, rank),
        dtype=_dtype_words(loaded.dtype, config.quantization),
        attention=reference.NAME,
        weight_bytes=built.weight_bytes,
        kv_bytes=built.kv_bytes,
        kv_tokens=cache.num_tokens,
        block_size=config.block_size,
        max_seq_length=limits.max_seq_length,
        load_s=load_s,
        warm_up_s=warm_up_s,
        peak_bytes=_peak_bytes(loaded.device, cache),
        num_layers=len(built.layers),
        num_fast_layers=built.num_fast,
    )
    logger.info("Ready: %s", ready)
    return Engine(Scheduler(limits, BlockManager(cache.num_blocks)), built.runner, ready)


def build(
    config: EngineConfig,
    report: Report,
    rank: Rank = WHOLE,
    group: Group | None = None,
    meeting_file: Path | None = None,
) -> Built:
    """Model, cache and runner of one rank. All ranks do the same, at the same time.

    group: given to rank 0, which tells the others of each step. meeting_file: given to the others.
    """
    config = replace(config, device_map=device_map(config.device_map, rank))
    num_threads = max(1, (config.num_threads or len(os.sched_getaffinity(0))) // rank.world_size)
    torch.set_num_threads(num_threads)
    loaded = load_model(config, lambda share, detail: report("load", share, detail), rank)
    if rank.world_size > 1:
        meeting_file = group.meeting_file if group else meeting_file
        assert meeting_file, "several ranks, and no place to meet"
        join(rank, meeting_file, loaded.device)
        num_points = connect(loaded.model, loaded.sharding)
        logger.info("Rank %d: %d modules communicate; no layer is fast", rank.index, num_points)
    layers = adapt(loaded.model)
    is_whole = rank.world_size == 1
    num_fast = (
        use_fast_blocks(loaded.model, layers) if is_whole and config.enable_fast_blocks else 0
    )
    for kernel, count in pack_weights(loaded.model).items():
        logger.info("%d quantized weights are computed by %s", count, kernel)
    if config.quantization != "none":
        _tell_saved(loaded, config.quantization)
    logger.info("%d weights are laid out for oneDNN", pack_linears(loaded.model))
    length = _max_seq_length(config, loaded.model.config)
    cache = _allocate(config, loaded, layers, length)
    vocab_size: Any = loaded.model.get_input_embeddings().num_embeddings
    sampler = Sampler(config.seed, _masks(config, vocab_size))
    runner = Runner(
        loaded.model, cache, sampler, loaded.device, num_threads=num_threads, group=group
    )
    return Built(
        loaded=loaded,
        layers=layers,
        num_fast=num_fast,
        cache=cache,
        max_seq_length=length,
        vocab_size=vocab_size,
        runner=runner,
        weight_bytes=total(stored_bytes(loaded.model), loaded.device),
        kv_bytes=total(cache.num_bytes, loaded.device),
    )


def _masks(config: EngineConfig, vocab_size: int) -> Masks:
    read_tokenizer = partial(grammar_tokenizer, Path(config.model_path))
    return Masks(LlguidanceCompiler(read_tokenizer, vocab_size), vocab_size)


def _limits(config: EngineConfig, max_seq_length: int, vocab_size: int) -> Limits:
    if max_seq_length < config.max_seq_length:
        logger.warning(
            "Requests may have %d tokens, not %d: more does not fit the model or the KV cache",
            max_seq_length,
            config.max_seq_length,
        )
    return Limits(
        max_seq_length=max_seq_length,
        max_num_seqs=min(config.max_num_seqs, config.max_batch_tokens),
        max_batch_tokens=config.max_batch_tokens,
        block_size=config.block_size,
        vocab_size=vocab_size,
        enable_prefix_cache=config.enable_prefix_cache,
        max_queue=config.max_queue,
        batch_wait_s=config.batch_wait_ms / 1000,
    )


def _tell_saved(loaded: LoadedModel, quantization: str) -> None:
    saved, left = saved_bytes(loaded.model, loaded.dtype), stored_bytes(loaded.model)
    logger.info(
        "%s: %.0f MiB of weights instead of %.0f, %.0f %% less; what it costs: "
        "python -m engine.quant.report",
        quantization,
        left / footprint.MIB,
        (left + saved) / footprint.MIB,
        100 * saved / (left + saved),
    )


def _max_seq_length(config: EngineConfig, model: PreTrainedConfig) -> int:
    return min(config.max_seq_length, usable_length(model) or config.max_seq_length)


def _allocate(
    config: EngineConfig, loaded: LoadedModel, layers: Sequence[LayerShape], max_seq_length: int
) -> KVCache:
    dtype = dtype_name(loaded.dtype)
    if loaded.device.type == "cuda":
        torch.cuda.empty_cache()  # what loading left in torch's hands counts as used
    activations = _activation_bytes(config, loaded.model.config, layers, dtype, max_seq_length)
    num_blocks = choose_num_blocks(
        config,
        max_seq_length=max_seq_length,
        token_bytes=bytes_per_token(layers, dtype),
        free_bytes=free_bytes(loaded.device, config.memory_fraction) - activations,
        is_cuda=loaded.device.type == "cuda",
    )
    cache = KVCache(
        layers,
        num_blocks=smallest(num_blocks, loaded.device),
        block_size=config.block_size,
        dtype=loaded.dtype,
        device=loaded.device,
    )
    logger.info("KV cache: %d tokens, %.2f GiB", cache.num_tokens, cache.num_bytes / footprint.GIB)
    return cache


def _activation_bytes(
    config: EngineConfig,
    model: PreTrainedConfig,
    layers: Sequence[LayerShape],
    dtype: str,
    max_seq_length: int,
) -> int:
    text = model.get_text_config()
    widest = max(layers, key=lambda layer: layer.num_heads * layer.k_dim)
    head_dim = max(widest.k_dim, widest.v_dim)
    scratch = footprint.reference_attention_bytes(
        max_batch_tokens=config.max_batch_tokens,
        max_seq_length=max_seq_length,
        num_heads=widest.num_heads,
        num_kv_heads=widest.num_kv_heads,
        head_dim=head_dim,
        dtype=dtype,
    )
    return footprint.activation_bytes(
        max_batch_tokens=config.max_batch_tokens,
        hidden_size=text.hidden_size,
        intermediate_size=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        vocab_size=text.vocab_size,
        dtype=dtype,
        num_sampled=min(config.max_num_seqs, config.max_batch_tokens),
        attention_width=(widest.num_heads + 2 * widest.num_kv_heads) * head_dim,
        attention_scratch_bytes=scratch,
    )


def _warm_up(runner: Runner, cache: KVCache, limits: Limits, device: torch.device) -> float:
    """Answer a request of zeros with two tokens on a scheduler of its own; returns seconds."""
    started = time.monotonic()
    wanted = limits.max_batch_tokens if device.type == "cuda" else _CPU_WARM_UP_TOKENS
    num_tokens = max(1, min(wanted, limits.max_seq_length - 2))
    scheduler = Scheduler(limits, BlockManager(cache.num_blocks))
    sampling = SamplingParams(max_new_tokens=2, temperature=1.0, top_p=0.9, seed=0)
    scheduler.submit("warm-up", [0] * num_tokens, sampling)
    while scheduler.has_work:
        batch = scheduler.schedule()
        scheduler.commit(batch, runner.run(batch))
    return time.monotonic() - started


def _device_name(device: torch.device, rank: Rank) -> str:
    is_gpu = device.type == "cuda"
    name = f"{device} ({torch.cuda.get_device_name(device)})" if is_gpu else "cpu"
    return name if rank.world_size == 1 else f"{rank.world_size} ranks, the first on {name}"


def _dtype_words(dtype: torch.dtype, quantization: str) -> str:
    name = dtype_name(dtype)
    return name if quantization == "none" else f"{quantization} weights, {name}"


def _peak_bytes(device: torch.device, cache: KVCache) -> int:
    """The most memory so far: what torch took of the GPU, or this process's resident memory.

    On a CPU the KV cache is counted as full; its pages come only when requests write there.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + cache.num_bytes
