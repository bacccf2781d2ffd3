"""Two ranks on gloo compute what one process computes, from the parts of the weights they read."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.contract.run_ranks import NUM_TOKENS, PROMPT
from tests.unit.architectures import tiny_config
from tests.unit.tiny_models import generate

DIVIDED = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {},
    "gemma2": {},
    "glm4": {},
    "olmo2": {},
    "phi3": {},
    "qwen3_moe": {},
    "mixtral": {},
    "llama-odd-vocabulary": {"vocab_size": 163},
    "llama-one-kv-head": {"num_key_value_heads": 1},
    "llama-tied": {"tie_word_embeddings": True, "vocab_size": 163},
    "qwen2-biased": {"attention_bias": True},
}
REFUSED = {
    "gpt2": ({}, "UnsupportedModel", "has no plan"),
    "llama-odd-heads": (
        {"num_attention_heads": 3, "num_key_value_heads": 3},
        "ConfigError",
        "3 attention heads",
    ),
    "llama-odd-mlp": ({"intermediate_size": 65}, "ConfigError", "65 features"),
}


def make_model(name: str, changes: dict[str, Any]) -> PreTrainedModel:
    torch.manual_seed(0)
    config = tiny_config(name.partition("-")[0])
    for option, value in changes.items():
        setattr(config, option, value)
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return model


def answers_of_two_ranks(folder: Path, device: str) -> dict[str, Any]:
    """What two ranks answered, by the model's name."""
    for name, changes in (DIVIDED | {n: c for n, (c, _, _) in REFUSED.items()}).items():
        make_model(name, changes).save_pretrained(folder / name)
    command = [sys.executable, "-m", "tests.contract.run_ranks", str(folder)]
    ranks = [subprocess.Popen([*command, str(rank), "2", device]) for rank in (0, 1)]
    assert [rank.wait(120) for rank in ranks] == [0, 0]
    return json.loads((folder / "answers.json").read_text())


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return answers_of_two_ranks(tmp_path_factory.mktemp("ranks"), "cpu")


@pytest.mark.parametrize("name", DIVIDED)
def test_two_ranks_equal_one_process(name: str, answers: dict[str, Any]) -> None:
    model = make_model(name, DIVIDED[name])
    got = answers[name]
    assert "error" not in got, got
    with torch.inference_mode():
        logits = model(torch.tensor(PROMPT), use_cache=False).logits[0, -1]
    assert torch.allclose(torch.tensor(got["logits"]), logits, atol=1e-5, rtol=1e-5)
    assert got["tokens"] == generate(model, PROMPT[0], NUM_TOKENS)
    assert got["num_params"] < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_divided_is_refused_with_its_numbers(
    name: str, answers: dict[str, Any]
) -> None:
    _, kind, words = REFUSED[name]
    assert answers[name]["error"] == kind
    assert words in answers[name]["message"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
