"""Models that see: their language half answers texts as the whole model of transformers does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForImageTextToText, GenerationConfig

from engine.config import EngineConfig
from engine.errors import UnsupportedModel
from engine.model.load import load_model
from tests.unit.architectures import tiny_config
from tests.unit.tiny_models import TinyEngine, greedy, prompts

_TEXT = tiny_config("llama").to_dict()
_TEXT = {
    key: _TEXT[key]
    for key in (
        "vocab_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
        "pad_token_id",
        "bos_token_id",
        "eos_token_id",
    )
} | {"hidden_size": 64, "head_dim": 16}
_EYES = {
    "depth": 1,
    "hidden_size": 32,
    "num_heads": 2,
    "patch_size": 2,
    "spatial_merge_size": 2,
    "temporal_patch_size": 1,
    "in_channels": 3,
}
_EYES_OF: dict[str, dict[str, Any]] = {
    "glm4v": {"intermediate_size": 48, "out_hidden_size": 64, "image_size": 16},
    "qwen2_vl": {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2},
    "qwen2_5_vl": {
        "out_hidden_size": 64,
        "intermediate_size": 48,
        "window_size": 8,
        "fullatt_block_indexes": [0],
    },
}
_ROTARY = {
    "glm4v": ([2, 1, 1], 0.5),
    "qwen2_vl": ([4, 2, 2], 1.0),
    "qwen2_5_vl": ([4, 2, 2], 1.0),
}
"""Frequencies for time, height and width, and the share of a head that rotates."""
_MARKS = {"image_token_id": 150, "video_token_id": 151}


def tiny_seeing_model(name: str) -> Any:
    section, share = _ROTARY[name]
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": section}
    text = {**_TEXT, "rope_parameters": {**rope, "partial_rotary_factor": share}}
    values = {"text_config": text, "vision_config": {**_EYES, **_EYES_OF[name]}, **_MARKS}
    config = CONFIG_MAPPING[name](**values)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(
        config, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return model


@pytest.mark.parametrize("name", list(_EYES_OF))
def test_texts_are_answered_as_by_the_whole_model(name: str, tmp_path: Path) -> None:
    whole = tiny_seeing_model(name)
    wanted = GenerationConfig(max_new_tokens=8, do_sample=False, pad_token_id=0)
    asked = [[token % 150 for token in prompt] for prompt in prompts(5, 23, 14)]
    expected = []
    for prompt in asked:
        whole.model.rope_deltas = None
        ids = torch.tensor([prompt])
        output = whole.generate(ids, attention_mask=torch.ones_like(ids), generation_config=wanted)
        expected.append(output[0, len(prompt) :].tolist())
    whole.save_pretrained(tmp_path)

    config = EngineConfig(model_path=str(tmp_path), device_map="cpu")
    loaded = load_model(config, lambda *_: None)
    assert loaded.weight_bytes < 4 * whole.num_parameters()
    assert not any("visual" in key for key, _ in loaded.model.named_parameters())
    for fast in (False, True):
        engine = TinyEngine(loaded.model, fast=fast)
        assert engine.num_fast == (3 if fast else 0)
        assert greedy(*engine.start(budget=11), asked, 8) == expected, fast


def test_another_model_that_sees_is_refused_by_name(tmp_path: Path) -> None:
    CONFIG_MAPPING["llava"]().save_pretrained(tmp_path)
    whole = tiny_seeing_model("qwen2_vl")
    whole.save_pretrained(tmp_path / "weights")
    (tmp_path / "weights" / "model.safetensors").rename(tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedModel, match="llava") as caught:
        load_model(EngineConfig(model_path=str(tmp_path), device_map="cpu"), lambda *_: None)
    assert "vLLM" in caught.value.fix
