"""The tokenizer's folder as the API process reads it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine.api.chat import load
from engine.errors import ModelError, RequestError
from tests.contract.tiny_tokenizer import BOS_ID, EOS_ID, save_folder

USER = [{"role": "user", "content": "Hé"}]


def test_a_conversation_goes_through_the_models_template(tmp_path: Path) -> None:
    vocabulary = load(save_folder(tmp_path / "tiny"))
    ids = vocabulary.encode_chat(USER, {})
    assert (ids[0], ids[-11:]) == (BOS_ID, [BOS_ID, *b"assistant\n"])
    assert vocabulary.decode(ids) == "user\nHé\nassistant\n"


def test_special_tokens_in_a_text_are_single_tokens(tmp_path: Path) -> None:
    vocabulary = load(save_folder(tmp_path / "tiny"))
    assert vocabulary.encode("a<|im_end|>") == [97, EOS_ID]


def test_a_token_alone_has_its_text_and_bytes(tmp_path: Path) -> None:
    vocabulary = load(save_folder(tmp_path / "tiny"))
    assert vocabulary.token_text(97) == ("a", [97])
    assert vocabulary.token_text(0xE6) == ("bytes:\\xe6", [0xE6])
    assert vocabulary.token_text(EOS_ID) == ("<|im_end|>", list(b"<|im_end|>"))


@pytest.mark.parametrize("name", ["chat_template", "tokenize", "tools"])
def test_template_values_cannot_replace_the_template(tmp_path: Path, name: str) -> None:
    vocabulary = load(save_folder(tmp_path / "tiny"))
    with pytest.raises(RequestError, match=name):
        vocabulary.encode_chat(USER, {name: "x"})
    assert vocabulary.encode_chat(USER, {"enable_thinking": False})


def test_a_model_without_a_template_says_what_to_use_instead(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "tiny")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(RequestError, match="/v1/completions"):
        load(folder).encode_chat(USER, {})


def test_every_end_token_stops_and_the_generation_config_goes_before_the_config(
    tmp_path: Path,
) -> None:
    folder = save_folder(tmp_path / "tiny", {"model_type": "llama", "eos_token_id": 1})
    assert load(folder).stop_ids == (1, EOS_ID)
    generation = {"eos_token_id": [2, 3], "temperature": 0.6, "top_k": 20, "do_sample": True}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    vocabulary = load(folder)
    assert vocabulary.stop_ids == (2, 3, EOS_ID)
    assert vocabulary.sampling_defaults == {"temperature": 0.6, "top_k": 20.0}


def test_a_folder_that_lacks_a_file_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        load(tmp_path)
    folder = save_folder(tmp_path / "tiny")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="tokenizer"):
        load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json cannot be read"):
        load(folder)


def test_until_the_port_is_bound_neither_torch_nor_transformers_is_imported() -> None:
    program = (
        "import sys, engine.launch, engine.api.server\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
