"""A GGUF file becomes a folder that transformers and the engine read; or nothing at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest

from engine.errors import UnsupportedModel
from engine.model.convert import ConversionError, convert, main

HIDDEN, LAYERS, FEED_FORWARD, HEADS = 32, 2, 64, 4
SPECIAL = ["<unk>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"


def _byte_tokens() -> list[str]:
    """The bytes as byte-level BPE writes them, and two merged tokens."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [*map(chr, printable), *(chr(256 + n) for n in range(len(others))), "ab", "cd"]


def _write_gguf(path: Path, *, without: str = "", architecture: str = "llama") -> Path:
    """A random llama with a byte-level tokenizer."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    tokens = SPECIAL + _byte_tokens()
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    kinds = [gguf.TokenType.CONTROL] * len(SPECIAL)
    writer.add_token_types([*kinds, *[gguf.TokenType.NORMAL] * (len(tokens) - len(SPECIAL))])
    writer.add_token_merges(["a b", "c d"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(TEMPLATE)
    for name, shape in _tensors(len(tokens)).items():
        if name != without:
            values = np.random.default_rng(0).standard_normal(shape) * 0.1
            writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(vocab_size: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (vocab_size, HIDDEN),
        "output_norm.weight": (HIDDEN,),
    }
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        shapes |= {f"{block}{n}_norm.weight": (HIDDEN,) for n in ("attn", "ffn")}
        shapes |= {f"{block}attn_{n}.weight": (HIDDEN, HIDDEN) for n in "qkv"}
        shapes[f"{block}attn_output.weight"] = (HIDDEN, HIDDEN)
        shapes |= {f"{block}ffn_{n}.weight": (FEED_FORWARD, HIDDEN) for n in ("gate", "up")}
        shapes[f"{block}ffn_down.weight"] = (HIDDEN, FEED_FORWARD)
    return shapes


def test_the_folder_holds_model_tokenizer_and_template(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    seen: list[float] = []
    dest = tmp_path / "models" / "tiny"
    convert(_write_gguf(tmp_path / "tiny.gguf"), dest, lambda progress, _: seen.append(progress))
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert (dest / "model.safetensors").is_file()
    config = json.loads((dest / "config.json").read_text())
    assert (config["architectures"], config["dtype"]) == (["LlamaForCausalLM"], "bfloat16")
    tokenizer = AutoTokenizer.from_pretrained(dest)
    assert tokenizer.convert_tokens_to_ids(SPECIAL[1:]) == [1, 2]
    assert tokenizer.eos_token == "<|im_end|>"
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "é"}])["input_ids"]
    assert (ids[0], ids[-1], len(ids)) == (1, 2, 4)
    model = AutoModelForCausalLM.from_pretrained(dest)
    assert model.num_parameters() == sum(map(np.prod, _tensors(261).values()))
    assert [path.name for path in dest.parent.iterdir()] == ["tiny"]


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "page.gguf"
    path.write_text("<html>")
    with pytest.raises(ConversionError, match="<htm"):
        convert(path, tmp_path / "dest", lambda *_: None)
    with pytest.raises(ConversionError, match="not a file"):
        convert(tmp_path / "none.gguf", tmp_path / "dest", lambda *_: None)


def test_an_existing_folder_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF")
    (tmp_path / "dest").mkdir()
    with pytest.raises(ConversionError, match="exists already"):
        convert(path, tmp_path / "dest", lambda *_: None)


def test_a_file_that_lacks_a_weight_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    path = _write_gguf(tmp_path / "x.gguf", without="blk.1.ffn_down.weight")
    with pytest.raises(UnsupportedModel, match=r"lacks 1 weights .*layers\.1\.mlp\.down_proj"):
        convert(path, tmp_path / "dest", lambda *_: None)
    assert [p.name for p in tmp_path.iterdir()] == ["x.gguf"]


def test_an_unknown_architecture_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _write_gguf(tmp_path / "x.gguf", architecture="warpdrive")
    assert main([str(path), str(tmp_path / "dest")]) == 2
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["error"]["code"] == "UnsupportedModel"
    assert "warpdrive" in last["error"]["message"]


def test_a_file_cut_short_is_refused_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _write_gguf(tmp_path / "x.gguf")
    path.write_bytes(path.read_bytes()[:20_000])
    assert main([str(path), str(tmp_path / "dest")]) == 2
    assert "error" in json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [p.name for p in tmp_path.iterdir()] == ["x.gguf"]


def test_a_full_disk_is_noticed_before_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ConversionError, match=r"has 0\.00 GiB free"):
        convert(_write_gguf(tmp_path / "x.gguf"), tmp_path / "dest", lambda *_: None)
    assert not (tmp_path / "dest").exists()
