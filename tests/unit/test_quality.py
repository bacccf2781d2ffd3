"""The quality report: perplexity and agreement as defined, and the table of a real folder."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from engine.errors import ModelError
from engine.quant import quality, report
from tests.contract.tiny_tokenizer import VOCAB_SIZE, tiny_tokenizer
from tests.unit.architectures import tiny_config


class Parrot:
    """Gives half of its probability to the token just seen, the rest evenly to the others."""

    device = torch.device("cpu")

    def __call__(self, input_ids: Tensor, use_cache: bool) -> SimpleNamespace:
        probs = torch.full((1, input_ids.shape[1], 5), 0.5 / 4)
        probs.scatter_(2, input_ids[..., None], 0.5)
        return SimpleNamespace(logits=probs.log() + 3.0)


def test_perplexity_is_the_exponential_of_the_mean_surprise() -> None:
    seen = quality.predict(Parrot(), [[1, 1, 2], [3, 3]])
    assert seen.top.tolist() == [1, 1, 3]
    assert seen.perplexity == pytest.approx(math.exp((2 * math.log(2) + math.log(8)) / 3))


def test_agreement_is_the_share_of_equal_first_choices() -> None:
    one = quality.Predictions(torch.zeros(4), torch.tensor([1, 2, 3, 4]))
    two = quality.Predictions(torch.zeros(4), torch.tensor([1, 2, 3, 0]))
    assert one.agreement(two) == 0.75
    assert one.agreement(one) == 1


def test_a_window_of_one_token_is_left_out() -> None:
    assert quality.windows(range(9), size=4) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_the_shipped_texts_are_a_few_kilobytes_in_both_languages() -> None:
    assert len(quality.text("en").split()) > 500
    assert sum("一" <= character <= "鿿" for character in quality.text("zh")) > 400


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = tiny_config("llama")
    config.vocab_size = VOCAB_SIZE
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def test_the_report_compares_each_format_with_full_precision(folder: Path) -> None:
    written: list[str] = []
    report.main([str(folder), "--device-map", "cpu", "--json"], written.append)
    full, *others = json.loads("".join(written))
    assert full["quantization"] == "none"
    assert full["agreement"] == {"en": 1.0, "zh": 1.0}
    assert [row["quantization"] for row in others] == ["int8", "int8_dynamic", "int4"]
    for row in others:
        assert row["perplexity"]["en"] == pytest.approx(full["perplexity"]["en"], rel=0.5)
    assert others[0]["bytes_saved"] > 0.3
    assert others[0]["agreement"]["en"] > 0.9


def test_the_report_is_a_table_unless_json_is_asked_for(folder: Path) -> None:
    written: list[str] = []
    report.main([str(folder), "--device-map", "cpu", "--quantization", "int8"], written.append)
    assert "perplexity zh" in "".join(written)
    assert "int8_dynamic" not in "".join(written)


def test_the_report_of_an_unusable_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        report.main([str(tmp_path)])
