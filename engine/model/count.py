"""`python -m engine.model.count`: a config.json on standard input, its parameters as JSON out.

The model is built by transformers on the meta device: no memory is taken, no weights are read, and
code that came with a model is never run.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText


def count(config: dict[str, Any]) -> dict[str, Any]:
    """{"num_params", "tied", "linears": [[out, in, count]…], "config": text config completed}.

    Raises whatever transformers does for a config that it cannot build.
    """
    has_vision = "vision_config" in config
    auto = AutoModelForImageTextToText if has_vision else AutoModelForCausalLM
    values = {k: v for k, v in config.items() if k not in ("model_type", "quantization_config")}
    full = AutoConfig.for_model(config["model_type"], **values)
    with torch.device("meta"):
        model = auto.from_config(full, trust_remote_code=False)
    text, head = full.get_text_config(), model.get_output_embeddings()
    return {
        "num_params": sum(parameter.numel() for parameter in model.parameters()),
        "tied": head is not None and head.weight is model.get_input_embeddings().weight,
        "linears": _linears(model),
        "config": _text_values(text),
    }


def _linears(model: Any) -> list[list[int]]:
    """The decoder's Linear weights, equal shapes together; not the head, not a vision tower."""
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    shapes = Counter(
        (module.out_features, module.in_features)
        for module in decoder.modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    )
    return [[out, width, times] for (out, width), times in sorted(shapes.items())]


def _text_values(text: Any) -> dict[str, Any]:
    """The config as plain values, under the usual names (gpt2's n_embd → hidden_size)."""
    values = {k: v for k, v in text.to_dict().items() if _is_plain(v)}
    for name in (*text.attribute_map, "num_key_value_heads", "head_dim", "tie_word_embeddings"):
        value = getattr(text, name, None)
        if value is not None and _is_plain(value):
            values[name] = value
    return values


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, str | int | float | bool)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(count(json.load(sys.stdin))) + "\n")
