"""What transformers says about a config: parameters, Linear weights, and the defaults filled in.

For families that `families.py` has no row for. A model is built on the meta device (no memory, no
weights read) in a process of its own, so the panel never imports torch; `python -m
panel.models.count` reads a config from stdin and prints JSON. Measured on 2 cores: 4 s, nearly
all of it the import of torch and transformers. Code that came with a model is never run.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

from panel.errors import ModelFolderError

TIMEOUT_S = 120.0


def ask_transformers(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Count this config's parameters in another process.

    Gives {"num_params", "tied", "linears": [[out, in, count]…], "config": text config completed}.
    Raises ModelFolderError where transformers does not know the architecture.
    """
    command = [sys.executable, "-m", "panel.models.count"]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(dict(config)),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise ModelFolderError(
            f"Counting the parameters of {name} took more than {TIMEOUT_S:.0f} s.",
            fix="Give a folder with its safetensors files; their headers are read instead.",
        ) from None
    answer = _last_json(done.stdout)
    if done.returncode or answer is None:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1].strip()[:160]
        raise ModelFolderError(
            f"transformers cannot build {name} (model type {config.get('model_type')!r}): {reason}",
            fix="Check config.json, or choose a model whose architecture transformers knows.",
        )
    return answer


def _last_json(text: str) -> dict[str, Any] | None:
    lines = text.strip().splitlines()
    return json.loads(lines[-1]) if lines and lines[-1].startswith("{") else None


def _count(config: dict[str, Any]) -> dict[str, Any]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

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
    import torch

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
    sys.stdout.write(json.dumps(_count(json.load(sys.stdin))) + "\n")
