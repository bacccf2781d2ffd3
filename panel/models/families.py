"""How many parameters a model has, by its config.json alone: one row a family, no torch.

A row says how a family's decoder differs from Llama's. A config that lacks a needed number, or
belongs to no row, gives None: then `count.py` asks transformers, which takes seconds instead of
microseconds. The rows are checked against transformers in tests/contract.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.footprint import LinearShape

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Family:
    """A string in place of a truth value names the config key that decides.

    norms: norms in a layer; norm_vectors: vectors in each (weight, bias).
    qk_norm: "head" norms each head's q and k with shared weights, "full" the whole width.
    head_dim: the default where config.json has none; None: hidden_size / heads.
    unless: config keys that make the row wrong when set.
    """

    qkv_bias: bool | str = False
    o_bias: bool | str = False
    mlp_bias: bool | str = False
    head_bias: bool = False
    qk_norm: str = ""
    norms: int = 2
    norm_vectors: int = 1
    is_gated: bool = True
    is_tied: bool = False
    head_dim: int | None = None
    unless: tuple[str, ...] = ()


_LLAMA = Family(qkv_bias="attention_bias", o_bias="attention_bias", mlp_bias="mlp_bias")
_QWEN3 = Family(qkv_bias="attention_bias", o_bias="attention_bias", qk_norm="head", head_dim=128)
_GEMMA = Family(qkv_bias="attention_bias", o_bias="attention_bias", is_tied=True, head_dim=256)
_GLM = Family(qkv_bias="attention_bias", head_dim=128)

FAMILIES: dict[str, Family] = {
    "llama": _LLAMA,
    "granite": _LLAMA,
    "internlm2": Family(qkv_bias="bias", o_bias="bias"),
    "mistral": Family(),
    "mixtral": Family(),
    "ministral": Family(),
    "qwen2": Family(qkv_bias=True),
    "qwen2_moe": Family(qkv_bias=True),
    "qwen3": _QWEN3,
    "qwen3_moe": _QWEN3,
    "gemma": _GEMMA,
    "gemma2": Family(
        qkv_bias="attention_bias", o_bias="attention_bias", is_tied=True, head_dim=256, norms=4
    ),
    "gemma3_text": Family(
        qkv_bias="attention_bias",
        o_bias="attention_bias",
        is_tied=True,
        head_dim=256,
        norms=4,
        qk_norm="head",
    ),
    "phi3": Family(),
    "phi": Family(
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
        head_bias=True,
        norms=1,
        norm_vectors=2,
        is_gated=False,
        unless=("qk_layernorm",),
    ),
    "glm": _GLM,
    "glm4": Family(qkv_bias="attention_bias", head_dim=128, norms=4),
    "olmo": Family(qkv_bias="attention_bias", o_bias="attention_bias", norm_vectors=0),
    "olmo2": Family(qkv_bias="attention_bias", o_bias="attention_bias", qk_norm="full"),
    "stablelm": Family(
        qkv_bias="use_qkv_bias",
        norm_vectors=2,
        unless=("qk_layernorm", "use_parallel_residual"),
    ),
    "cohere": Family(
        qkv_bias="attention_bias",
        o_bias="attention_bias",
        norms=1,
        is_tied=True,
        unless=("use_qk_norm",),
    ),
    "deepseek_v2": Family(qkv_bias="attention_bias", o_bias="attention_bias", unless=("mlp_bias",)),
    "deepseek_v3": Family(qkv_bias="attention_bias", o_bias="attention_bias"),
}


@dataclass(frozen=True, slots=True)
class Counted:
    """num_params: all parameters, a tied embedding once; linears: what int8 and int4 replace."""

    num_params: int
    linears: tuple[LinearShape, ...]


def count(config: Config) -> Counted | None:
    """Count a text model's parameters; None where no formula holds or a number is missing."""
    family = FAMILIES.get(config.get("model_type", ""))
    if family is None or "vision_config" in config or any(config.get(k) for k in family.unless):
        return None
    try:
        return _count(family, config)
    except (KeyError, TypeError):
        return None


def _count(family: Family, config: Config) -> Counted:
    hidden, vocab, layers = (
        config["hidden_size"],
        config["vocab_size"],
        config["num_hidden_layers"],
    )
    attention = _attention(family, config)
    dense, sparse = _mlp(family, config, config["intermediate_size"]), _experts(config)
    num_sparse = _num_sparse_layers(config)
    linears = _scaled(attention.linears, layers) + _scaled(dense.linears, layers - num_sparse)
    linears += _scaled(sparse.linears, num_sparse)
    others = layers * (attention.others + family.norms * family.norm_vectors * hidden)
    others += (layers - num_sparse) * dense.others + num_sparse * sparse.others
    others += vocab * hidden + family.norm_vectors * hidden  # embedding and last norm
    if not is_tied(config):
        others += vocab * hidden
    if family.head_bias:
        others += vocab
    return Counted(others + sum(shape.num_params for shape in linears), linears)


def is_tied(config: Config) -> bool:
    """Whether embedding and head are one matrix."""
    family = FAMILIES.get(config.get("model_type", ""), Family())
    tied = config.get("tie_word_embeddings")
    return family.is_tied if tied is None else bool(tied)


def head_dim(config: Config) -> int:
    """Width of one query or key head."""
    if config.get("kv_lora_rank"):
        return config["qk_nope_head_dim"] + config["qk_rope_head_dim"]
    if config.get("head_dim"):
        return config["head_dim"]
    family = FAMILIES.get(config.get("model_type", ""), Family())
    return family.head_dim or config["hidden_size"] // config["num_attention_heads"]


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of one layer: its Linear weights, and how many parameters it has besides."""

    linears: tuple[LinearShape, ...] = ()
    others: int = 0


def _flag(config: Config, value: bool | str) -> bool:
    return bool(config.get(value)) if isinstance(value, str) else value


def _scaled(linears: tuple[LinearShape, ...], times: int) -> tuple[LinearShape, ...]:
    return tuple(
        LinearShape(s.out_features, s.in_features, s.count * times) for s in linears if times
    )


def _attention(family: Family, config: Config) -> _Part:
    if config.get("kv_lora_rank"):
        return _latent_attention(family, config)
    hidden, dim = config["hidden_size"], head_dim(config)
    query = config["num_attention_heads"] * dim
    kv = (config.get("num_key_value_heads") or config["num_attention_heads"]) * dim
    others = (query + 2 * kv) * _flag(config, family.qkv_bias)
    others += hidden * _flag(config, family.o_bias)
    others += {"": 0, "head": 2 * dim, "full": query + kv}[family.qk_norm]
    shapes = LinearShape(query, hidden), LinearShape(kv, hidden, 2), LinearShape(hidden, query)
    return _Part(shapes, others)


def _latent_attention(family: Family, config: Config) -> _Part:
    """DeepSeek's multi-head latent attention. Source: DeepSeek-V2 (2024), section 2.1."""
    hidden, heads, rank = (
        config["hidden_size"],
        config["num_attention_heads"],
        config["kv_lora_rank"],
    )
    nope, rope, value = (config[k] for k in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"))
    query_rank, query = config["q_lora_rank"], heads * (nope + rope)
    bias = _flag(config, family.qkv_bias)
    shapes = (LinearShape(query, hidden),)
    others = rank + bias * (rank + rope + hidden)
    if query_rank:
        shapes = LinearShape(query_rank, hidden), LinearShape(query, query_rank)
        others += query_rank + bias * query_rank
    shapes += (
        LinearShape(rank + rope, hidden),
        LinearShape(heads * (nope + value), rank),
        LinearShape(hidden, heads * value),
    )
    return _Part(shapes, others)


def _mlp(family: Family, config: Config, width: int) -> _Part:
    hidden, ups = config["hidden_size"], 2 if family.is_gated else 1
    bias = (ups * width + hidden) * _flag(config, family.mlp_bias)
    return _Part((LinearShape(width, hidden, ups), LinearShape(hidden, width)), bias)


def num_experts(config: Config) -> int:
    """Routed experts of a layer; 0 for a dense model."""
    keys = ("num_experts", "num_local_experts", "n_routed_experts")
    return next((config[key] for key in keys if config.get(key)), 0)


def _experts(config: Config) -> _Part:
    """Router, routed experts (one stacked tensor, not Linear modules) and shared experts."""
    experts, hidden = num_experts(config), config["hidden_size"]
    if not experts:
        return _Part()
    width = config.get("moe_intermediate_size") or config["intermediate_size"]
    others = experts * (hidden + 3 * hidden * width)
    shared = config.get("shared_expert_intermediate_size") or 0
    if shared:
        others += hidden  # the shared expert's gate
    shared = shared or (config.get("n_shared_experts") or 0) * width
    if not shared:
        return _Part((), others)
    return _Part((LinearShape(shared, hidden, 2), LinearShape(hidden, shared)), others)


def _num_sparse_layers(config: Config) -> int:
    if not num_experts(config):
        return 0
    layers, step = range(config["num_hidden_layers"]), config.get("decoder_sparse_step") or 1
    dense = set(config.get("mlp_only_layers") or ())
    first = config.get("first_k_dense_replace") or 0
    return sum(i >= first and i not in dense and (i + 1) % step == 0 for i in layers)
