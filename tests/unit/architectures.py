"""Tiny configurations of the architectures that the engine is proven on, and of those it refuses.

Most take the same small values under whatever names their configuration has; `_OWN` holds what an
architecture needs beyond that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig

VOCAB = 160
NUM_LAYERS = 3

_USUAL: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
    "sliding_window": 8,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 12,
    "n_embd": 48,
    "n_layer": NUM_LAYERS,
    "n_head": 4,
    "n_positions": 512,
    "d_model": 48,
    "n_layers": NUM_LAYERS,
    "n_heads": 4,
    "ffn_dim": 64,
    "word_embed_proj_dim": 48,
    "max_seq_len": 512,
}
_WANTED_EVEN_IF_NONE = {"eos_token_id", "pad_token_id"}

_BASE = {
    key: _USUAL[key]
    for key in (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
        "pad_token_id",
        "bos_token_id",
        "eos_token_id",
    )
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
_SLIDING_AND_FULL = ["sliding_attention"] * (NUM_LAYERS - 1) + ["full_attention"]

CORE: dict[str, dict[str, Any]] = {
    "llama": _HEADS,
    "qwen2": _BASE,
    "qwen3": _HEADS,
    "mistral": _WINDOW,
    "gemma2": {**_WINDOW, "query_pre_attn_scalar": 16},
    "gemma3_text": {**_WINDOW, "layer_types": _SLIDING_AND_FULL},
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
"""Tested in every way of batching."""

_USUAL_NAMES = [
    "gemma",
    "ernie4_5",
    "seed_oss",
    "apertus",
    "phimoe",
    "glm4_moe",
    "gpt_neox",
    "opt",
    "phi",
    "arcee",
    "bitnet",
    "olmo",
    "olmoe",
    "persimmon",
    "granitemoe",
    "granitemoeshared",
    "vaultgemma",
    "ministral3",
    "flex_olmo",
    "nanochat",
    "biogpt",
    "minimax_m2",
    "ernie4_5_moe",
    "jais2",
    "exaone_moe",
    "solar_open",
    "internlm3",
    "gpt_bigcode",
    "ctrl",
    "jetmoe",
    "aria_text",
    "cwm",
    "doge",
    "afmoe",
]

_OWN: dict[str, dict[str, Any]] = {
    "hunyuan_v1_dense": _HEADS,
    "hunyuan_v1_moe": {**_HEADS, "num_experts": 4, "moe_topk": 2},
    "ministral": {**_WINDOW, "layer_types": _SLIDING_AND_FULL},
    "nemotron": _HEADS,
    "helium": {**_HEADS, "num_attention_heads": 3, "num_key_value_heads": 3},
    "stablelm": {**_BASE, "num_key_value_heads": 4, "hidden_size": 64},
    "deepseek_v2": {**_LATENT, "topk_method": "greedy"},
    "glm4_moe_lite": {**_LATENT, "mlp_layer_types": ["dense", "sparse", "sparse"]},
    "youtu": _LATENT,
    "gemma4_text": {
        **_WINDOW,
        "global_head_dim": 16,
        "layer_types": _SLIDING_AND_FULL,
        "num_kv_shared_layers": 0,
        "vocab_size_per_layer_input": VOCAB,
        "hidden_size_per_layer_input": 0,
    },
}

_REFUSED_OWN: dict[str, dict[str, Any]] = {
    "falcon": {
        "vocab_size": VOCAB,
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "new_decoder_architecture": False,
        "multi_query": True,
        "alibi": False,
        "bos_token_id": 1,
        "eos_token_id": None,
    },
    "gptj": {"n_embd": 64, "n_head": 4, "n_layer": 3, "rotary_dim": 8, "vocab_size": VOCAB},
    "lfm2": {**_BASE, "layer_types": ["conv", "conv", "full_attention"]},
}

OTHERS: tuple[str, ...] = tuple(name for name in (*_USUAL_NAMES, *_OWN) if name in CONFIG_MAPPING)
"""Tested in one way of batching; transformers 5.17 does not know all of them."""

REFUSED: Mapping[str, str] = {
    "bloom": "asks for attention 0 times",
    "mpt": "asks for attention 0 times",
    "falcon": "asks for attention 0 times",
    "gptj": "asks for attention 0 times",
    "rwkv": "recurrent state",
    "mamba": "linear_attention",
    "falcon_mamba": "linear_attention",
    "jamba": "linear_attention",
    "recurrent_gemma": "linear_attention|recurrent state",  # transformers 5.23 | 5.17
    "nemotron_h": "linear_attention",
    "falcon_h1": "hybrid",
    "minimax": "linear_attention",
    "qwen3_next": "linear_attention",
    "qwen3_5_text": "linear_attention",
    "kimi_linear": "linear_attention",
    "lfm2": "conv",
    "llama4_text": "chunked_attention",
    "glm_moe_dsa": "indexed_attention|sparse_attention",  # 5.23 | 5.17
    "deepseek_v4": "heavily_compressed_attention",
    "diffllama": "asks for attention 6 times",
}
"""Not served, and a part of what is said about it."""


def tiny_config(name: str) -> PreTrainedConfig:
    values = (CORE | _OWN | _REFUSED_OWN).get(name) or _usual_values(name)
    return CONFIG_MAPPING[name](**values)


def _usual_values(name: str) -> dict[str, Any]:
    """The small values under the names that this architecture's configuration has."""
    plain = CONFIG_MAPPING[name]()
    return {
        key: value
        for key, value in _USUAL.items()
        if hasattr(plain, key) and (getattr(plain, key) is not None or key in _WANTED_EVEN_IF_NONE)
    }
