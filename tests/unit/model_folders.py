"""Small real model folders for tests: a Llama config and safetensors files of the right shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
from safetensors.numpy import save

TINY_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 40,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}


def tiny_tensors(config: dict[str, Any] = TINY_CONFIG) -> dict[str, numpy.ndarray]:
    """Zeros under the names and in the shapes that transformers gives a Llama."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    kv = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        for name, rows in (("q", hidden), ("k", kv), ("v", kv), ("o", hidden)):
            shapes[f"{at}self_attn.{name}_proj.weight"] = (rows, hidden)
        for name in ("gate", "up"):
            shapes[f"{at}mlp.{name}_proj.weight"] = (inner, hidden)
        shapes[f"{at}mlp.down_proj.weight"] = (hidden, inner)
        shapes[f"{at}input_layernorm.weight"] = (hidden,)
        shapes[f"{at}post_attention_layernorm.weight"] = (hidden,)
    return {name: numpy.zeros(shape, numpy.float16) for name, shape in shapes.items()}


def tiny_files(num_shards: int = 1) -> dict[str, bytes]:
    """File name → content of a small model, in one or several weight files."""
    tensors = tiny_tensors()
    files = {"config.json": json.dumps(TINY_CONFIG).encode(), "tokenizer.json": b"{}"}
    if num_shards == 1:
        return {**files, "model.safetensors": save(tensors)}
    names = [f"model-{i + 1:05}-of-{num_shards:05}.safetensors" for i in range(num_shards)]
    weight_map = {name: names[i % num_shards] for i, name in enumerate(tensors)}
    for shard in names:
        files[shard] = save({n: tensors[n] for n in tensors if weight_map[n] == shard})
    index = {"metadata": {}, "weight_map": weight_map}
    return {**files, "model.safetensors.index.json": json.dumps(index).encode()}


def write_model(folder: Path, num_shards: int = 1) -> Path:
    """Lay a small model into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in tiny_files(num_shards).items():
        (folder / name).write_bytes(data)
    return folder
