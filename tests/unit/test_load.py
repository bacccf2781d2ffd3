"""Loading: good folders give transformers' own model, bad ones an error that names the file."""

from __future__ import annotations

import gc
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from engine import footprint
from engine.config import EngineConfig
from engine.errors import ConfigError, ModelError, ModelTooLarge, UnsupportedModel
from engine.model import device, load
from engine.model.adapt import adapt, usable_length
from engine.model.load import LoadedModel, load_model
from engine.model.merge import Merged
from engine.quant.linear import QuantizedLinear
from engine.worker.kvcache import bytes_per_token, choose_num_blocks
from tests.unit import unmerged
from tests.unit.tiny_models import tiny_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama on disk in three files."""
    folder = tmp_path_factory.mktemp("model")
    tiny_model("llama").save_pretrained(folder, max_shard_size="60KB")
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def loaded(folder: Path, **options: Any) -> LoadedModel:
    config = EngineConfig(model_path=str(folder), device_map="cpu", **options)
    return load_model(config, lambda *_: None)


def refusal(folder: Path, **options: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        loaded(folder, **options)
    assert caught.value.fix
    return caught.value


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("name", ["llama", "gemma2", "qwen3_moe", "mixtral", "deepseek_v3"])
def test_a_saved_model_is_loaded_with_the_same_weights_and_buffers(
    name: str, tmp_path: Path
) -> None:
    tiny_model(name).save_pretrained(tmp_path)
    expected = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    model = loaded(tmp_path).model
    ours = unmerged.tensors(model)
    for key, value in (*expected.named_parameters(), *expected.named_buffers()):
        torch.testing.assert_close(ours[key], value, msg=key)
    assert not model.training


def test_siblings_are_merged_before_the_next_layer_is_read(folder: Path) -> None:
    """Between two parts, none of the pieces that were merged is there any more."""

    def count_pieces(*_: object) -> None:
        linears = [o for o in gc.get_objects() if type(o) is torch.nn.Linear]
        counts.append(sum(m.out_features == 64 and not m.weight.is_meta for m in linears))

    counts: list[int] = []
    gc.collect()
    count_pieces()
    config = EngineConfig(model_path=str(folder), device_map="cpu")
    model = load_model(config, count_pieces).model
    assert sum(isinstance(module, Merged) for module in model.modules()) == 3 * 2
    assert max(counts) == counts[0]


def test_progress_is_told_layer_by_layer_and_ends_at_one(folder: Path) -> None:
    seen: list[tuple[float, str]] = []
    config = EngineConfig(model_path=str(folder), device_map="cpu")
    load_model(config, lambda share, detail: seen.append((share, detail)))
    assert [share for share, _ in seen] == [0.25, 0.5, 0.75, 1.0]
    assert seen[1][1] == "2 of 4 parts"


def test_tied_weights_are_one_tensor_and_count_once(tmp_path: Path) -> None:
    model = tiny_model("llama")
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(tmp_path)
    result = loaded(tmp_path)
    parameters = dict(result.model.named_parameters(remove_duplicate=False))
    assert parameters["lm_head.weight"] is parameters["model.embed_tokens.weight"]
    own = sum(p.numel() * 4 for p in result.model.parameters())
    assert own <= result.weight_bytes < own + 1000


@pytest.mark.parametrize("quantization", ["int8", "int8_dynamic", "int4"])
def test_a_model_is_quantized_while_it_loads(folder: Path, quantization: str) -> None:
    result = loaded(folder, quantization=quantization)
    layers = [m for m in result.model.modules() if isinstance(m, QuantizedLinear)]
    assert len(layers) == 3 * 4 + (quantization == "int8_dynamic")
    assert result.weight_bytes < loaded(folder).weight_bytes


def test_the_computing_type_can_be_chosen(folder: Path) -> None:
    result = loaded(folder, dtype="bfloat16")
    assert result.dtype is torch.bfloat16
    assert {p.dtype for p in result.model.parameters()} == {torch.bfloat16}


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "nowhere").message


def test_a_folder_without_config_json_says_so(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "has no config.json" in refusal(folder).message


def test_a_config_that_is_not_json_says_so(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    assert "config.json is not JSON" in refusal(folder).message


def test_a_folder_without_weights_says_so(folder: Path) -> None:
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")
    message = refusal(folder).message
    assert "no safetensors files" in message
    assert "pytorch_model.bin" in message


def test_a_missing_shard_is_named(folder: Path) -> None:
    lost = sorted(folder.glob("*.safetensors"))[1]
    lost.unlink()
    assert f"lacks {lost.name}" in refusal(folder).message


def test_a_file_that_was_cut_off_is_named_with_both_sizes(folder: Path) -> None:
    cut = sorted(folder.glob("*.safetensors"))[0]
    data = cut.read_bytes()
    cut.write_bytes(data[:-100])
    message = refusal(folder).message
    assert cut.name in message
    assert f"{len(data) - 100:,}" in message
    assert f"{len(data):,}" in message


@pytest.mark.parametrize("data", [b"", b"\x10\0\0\0", b"\xff" * 40])
def test_a_file_without_a_header_is_named(folder: Path, data: bytes) -> None:
    bad = sorted(folder.glob("*.safetensors"))[0]
    bad.write_bytes(data)
    assert bad.name in refusal(folder).message


def test_a_git_lfs_pointer_is_recognized(folder: Path) -> None:
    pointer = sorted(folder.glob("*.safetensors"))[0]
    pointer.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    error = refusal(folder)
    assert pointer.name in error.message
    assert "git lfs pull" in error.fix


def test_a_tensor_that_is_not_there_is_named_and_never_made_up(folder: Path) -> None:
    (folder / "model.safetensors.index.json").unlink()
    for file in sorted(folder.glob("*.safetensors")):
        tensors = load_file(file)
        if tensors.pop("model.norm.weight", None) is not None:
            save_file(tensors, file)
    assert "model.norm.weight" in refusal(folder).message


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    change_config(folder, intermediate_size=80)
    assert "another shape" in refusal(folder).message


def test_a_model_type_that_transformers_does_not_know_is_refused_by_name(folder: Path) -> None:
    change_config(folder, model_type="nonesuch", auto_map={"AutoModelForCausalLM": "x.Y"})
    error = refusal(folder)
    assert isinstance(error, UnsupportedModel)
    assert "nonesuch" in error.message
    assert "never run" in error.message


@pytest.mark.parametrize("name", ["mamba2", "t5", "rwkv", "qwen3_next"])
def test_a_model_that_keeps_something_else_than_kv_is_refused_before_loading(
    folder: Path, name: str
) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": name}))
    error = refusal(folder)
    assert isinstance(error, UnsupportedModel)
    assert name in error.message
    assert "vLLM" in error.fix


def test_a_model_that_was_not_trained_to_continue_text_is_refused(folder: Path) -> None:
    change_config(folder, model_type="bert", architectures=["BertForMaskedLM"])
    assert "BertForMaskedLM" in refusal(folder).message


def test_a_checkpoint_that_is_quantized_already_is_refused(folder: Path) -> None:
    change_config(folder, quantization_config={"quant_method": "bitsandbytes"})
    assert "already quantized (bitsandbytes)" in refusal(folder).message


@pytest.mark.parametrize("name", ["bloom", "mpt"])
def test_alibi_is_refused_by_the_probe(name: str) -> None:
    sizes: dict[str, Any] = {"vocab_size": 32, "hidden_size": 32, "n_layer": 2, "n_head": 2}
    sizes |= {"d_model": 32, "n_heads": 2, "n_layers": 2}
    config = CONFIG_MAPPING[name](**sizes)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with pytest.raises(UnsupportedModel, match=name):
        adapt(model)


def test_a_model_that_does_not_fit_is_refused_with_both_numbers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "free_bytes", lambda *_: 1000)
    error = refusal(folder)
    assert isinstance(error, ModelTooLarge)
    assert "0.00 GiB may be filled" in error.message


def test_a_device_that_is_not_here_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="cuda:99"):
        device.choose_device("cuda:99")
    with pytest.raises(ConfigError, match="mps"):
        device.choose_device("mps")


def test_the_predicted_bytes_are_the_loaded_bytes(folder: Path) -> None:
    result = loaded(folder)
    num_params = sum(p.numel() for p in result.model.parameters())
    predicted = footprint.weight_bytes(num_params, footprint.WeightFormat.FLOAT32)
    buffers = sum(b.numel() * b.element_size() for b in result.model.buffers())
    assert result.weight_bytes == predicted + buffers


def test_rotary_positions_that_depend_on_length_limit_the_length() -> None:
    model = tiny_model("llama")
    assert usable_length(model.config) == 512
    model.config.rope_parameters = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "original_max_position_embeddings": 128,
    }
    assert usable_length(model.config) == 128


def kv_blocks(**options: Any) -> int:
    given = {"max_seq_length": 64, "token_bytes": 100, "free_bytes": 10**6, "is_cuda": True}
    config = {"model_path": "m", "max_num_seqs": 2, "block_size": 16}
    for name in ("kv_cache_gib", "max_num_seqs"):
        if name in options:
            config[name] = options.pop(name)
    return choose_num_blocks(EngineConfig(**config), **{**given, **options})


def test_the_kv_cache_takes_what_the_limits_can_use_and_no_more() -> None:
    assert kv_blocks() == 2 * 4 + 1


def test_the_kv_cache_stays_within_the_memory() -> None:
    assert kv_blocks(max_num_seqs=1000) == 10**6 // 1600
    assert kv_blocks(max_num_seqs=1000, is_cuda=False) == 10**6 // 4 // 1600


def test_a_kv_cache_that_does_not_fit_is_refused_with_numbers() -> None:
    with pytest.raises(ModelTooLarge, match=r"needs 1\.00 GiB"):
        kv_blocks(kv_cache_gib=1.0)
    with pytest.raises(ModelTooLarge, match="are left"):
        kv_blocks(free_bytes=-5)


def test_what_layers_keep_is_counted_from_their_own_shapes() -> None:
    layers = adapt(tiny_model("deepseek_v3"))
    assert {(s.num_kv_heads, s.k_dim, s.v_dim) for s in layers} == {(4, 16, 12)}
    assert bytes_per_token(layers, "float32") == 3 * 4 * (16 + 12) * 4
