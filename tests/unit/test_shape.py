from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors.numpy import save_file

from panel.errors import ModelFolderError
from panel.models.catalog import Tier, catalog, entry_of
from panel.models.families import count
from panel.models.shape import ModelShape, shape_of_config, shape_of_folder, shape_of_source
from panel.models.source import DEMO, parse
from tests.unit.model_folders import TINY_CONFIG, tiny_tensors, write_model

_DEEPSEEK: dict[str, Any] = {
    "model_type": "deepseek_v2",
    "hidden_size": 2048,
    "intermediate_size": 10944,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "vocab_size": 102400,
    "max_position_embeddings": 163840,
    "kv_lora_rank": 512,
    "q_lora_rank": None,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "moe_intermediate_size": 1408,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize("entry", catalog(), ids=lambda entry: entry.name)
def test_the_catalogs_numbers_equal_the_formulas(entry: Any) -> None:
    counted = count(entry.config)
    assert counted is None or counted.num_params == entry.num_params
    assert counted is not None or entry.linears
    shape = shape_of_config(entry.config, entry.name, counted=entry.counted)
    assert shape.num_params == entry.num_params
    assert entry.context_tokens <= shape.max_positions
    assert set(entry.description) == {"en", "zh"}


def test_the_catalog_offers_the_demo_first_then_small_then_large() -> None:
    tiers = [entry.tier for entry in catalog()]
    assert tiers[0] is Tier.DEMO
    assert tiers == sorted(tiers, key=[Tier.DEMO, Tier.SMALL, Tier.LARGE].index)


def test_an_entry_is_found_on_either_hub_but_not_at_another_revision() -> None:
    assert entry_of(DEMO) is catalog()[0]
    assert entry_of(parse("ms:Qwen/Qwen3-8B")) is entry_of(parse("Qwen/Qwen3-8B"))
    assert entry_of(parse("Qwen/Qwen3-8B@old")) is None


def test_a_catalog_model_is_sized_without_a_network(tmp_path: Path) -> None:
    shape = shape_of_source(parse("Qwen/Qwen2.5-7B-Instruct"), tmp_path)
    assert shape.num_params == 7_615_616_512
    assert shape.kv_bytes_per_token() == 57_344
    assert 14 < shape.num_params * 2 / 2**30 < 15


@pytest.mark.parametrize("num_shards", [1, 3])
def test_parameters_are_counted_from_headers(tmp_path: Path, num_shards: int) -> None:
    shape = shape_of_folder(write_model(tmp_path / "tiny", num_shards))
    counted = count(TINY_CONFIG)
    assert counted is not None
    assert shape.exact
    assert shape.num_params == counted.num_params
    assert shape.stored_bytes == {"F16": 2 * counted.num_params}


def test_a_tied_head_that_is_stored_again_is_counted_once(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "tiny")
    head = numpy.zeros((40, 16), numpy.float16)
    save_file({**tiny_tensors(), "lm_head.weight": head}, folder / "model.safetensors")
    counted = count(TINY_CONFIG)
    assert counted is not None
    assert shape_of_folder(folder).num_params == counted.num_params


def test_linears_hold_every_weight_that_quantization_replaces() -> None:
    shape = shape_of_config(TINY_CONFIG, "tiny")
    rest = 40 * 16 + 16 + 2 * 2 * 16  # embedding, last norm, two norms a layer
    assert sum(s.num_params for s in shape.linears) == shape.num_params - rest


def test_latent_attention_is_cached_whole_by_us_and_compressed_by_others() -> None:
    shape = shape_of_config(_DEEPSEEK, "lite")
    assert shape.num_params == 15_706_484_224
    assert shape.kv_bytes_per_token() == 276_480
    assert shape.compressed_kv_bytes_per_token() == 31_104


def test_sliding_layers_are_noted() -> None:
    config = {**TINY_CONFIG, "model_type": "gemma3_text", "sliding_window": 32}
    config |= {"num_hidden_layers": 12, "head_dim": 4}
    shape = shape_of_config(config, "gemma")
    assert (shape.sliding_window, shape.num_sliding_layers) == (32, 10)


def test_layers_without_attention_keep_no_kv() -> None:
    kinds = ["linear_attention", "full_attention"]
    shape = shape_of_config({**TINY_CONFIG, "layer_types": kinds}, "hybrid")
    assert shape.num_kv_layers == 1


def test_a_shape_written_and_read_is_the_same() -> None:
    shape = replace(shape_of_config(_DEEPSEEK, "lite"), stored_bytes={"BF16": 7})
    assert ModelShape.from_dict(json.loads(json.dumps(shape.to_dict()))) == shape


def test_a_family_without_a_formula_is_built_by_transformers() -> None:
    shape = shape_of_config({"model_type": "gpt2", "n_layer": 2, "n_embd": 64, "n_head": 4}, "gpt")
    assert shape.num_params == 50257 * 64 + 1024 * 64 + 2 * (12 * 64 * 64 + 13 * 64) + 2 * 64
    assert (shape.num_layers, shape.num_heads, shape.head_dim) == (2, 4, 16)
    assert (shape.max_positions, shape.tied) == (1024, True)


def test_an_unknown_architecture_is_refused_by_name() -> None:
    with pytest.raises(ModelFolderError, match="nonesuch"):
        shape_of_config({**TINY_CONFIG, "model_type": "nonesuch"}, "strange")


# --- folders that cannot be used ---------------------------------------------------------------


def _fails(folder: Path, message: str, fix: str) -> None:
    with pytest.raises(ModelFolderError, match=message) as caught:
        shape_of_folder(folder)
    assert fix in caught.value.fix


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    _fails(tmp_path / "none", "is not a folder", "config.json")


def test_a_gguf_file_is_told_the_converter(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    _fails(tmp_path / "m.gguf", "is not a folder", "engine.model.convert")


def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    _fails(write_model(tmp_path / "tiny"), r"config\.json cannot be read: Permission", "owner")


def test_a_folder_without_config(tmp_path: Path) -> None:
    _fails(tmp_path, r"has no config\.json", "Hugging Face layout")


def test_a_folder_with_gguf_only_is_told_the_converter(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    _fails(tmp_path, r"has no config\.json", "engine.model.convert")


def test_the_folder_above_the_model_points_to_it(tmp_path: Path) -> None:
    write_model(tmp_path / "inner")
    _fails(tmp_path, r"has no config\.json", "inner")


@pytest.mark.parametrize("text", ["{", "", "[1]", "{}", '{"model_type": 7}'])
def test_a_damaged_config_is_named(tmp_path: Path, text: str) -> None:
    folder = write_model(tmp_path / "tiny")
    (folder / "config.json").write_text(text)
    _fails(folder, r"config\.json", "again")


def test_a_folder_without_weights(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "tiny")
    (folder / "model.safetensors").unlink()
    _fails(folder, "no .*safetensors", "Download the weights")


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "tiny")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    _fails(folder, r"pytorch_model\.bin", "safetensors")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "tiny", num_shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    _fails(folder, "lacks 1 of 3 weight files: model-00002", "Finish the download")


@pytest.mark.parametrize("kept", [0, 5, 200, -1])
def test_a_truncated_weight_file_is_named(tmp_path: Path, kept: int) -> None:
    folder = write_model(tmp_path / "tiny")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    _fails(folder, r"model\.safetensors is damaged or cut short", "download it again")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_git_lfs_pointer_is_recognised(tmp_path: Path, name: str) -> None:
    folder = write_model(tmp_path / "tiny")
    (folder / name).write_text("version https://git-lfs.example/spec/v1\noid sha256:0\nsize 9\n")
    _fails(folder, f"{name} is a git-lfs pointer", "git lfs pull")


def test_weights_that_lack_layers_of_the_config_are_refused_with_both_numbers(
    tmp_path: Path,
) -> None:
    folder = write_model(tmp_path / "half")
    kept = {"model.embed_tokens.weight": tiny_tensors()["model.embed_tokens.weight"]}
    save_file(kept, folder / "model.safetensors")
    with pytest.raises(ModelFolderError, match=r"hold 640 parameters.*at least 3,\d{3}"):
        shape_of_folder(folder)


@pytest.mark.parametrize(
    "nonsense",
    [{"text_config": "x"}, {"num_attention_heads": 0}, {"hidden_size": "wide"}, {"model_type": 3}],
)
def test_a_config_with_nonsense_in_it_is_an_error_and_no_traceback(
    tmp_path: Path, nonsense: dict[str, Any]
) -> None:
    folder = write_model(tmp_path / "odd")
    (folder / "config.json").write_text(json.dumps({**TINY_CONFIG, **nonsense}))
    with pytest.raises(ModelFolderError):
        shape_of_folder(folder)


def test_an_index_that_names_no_files_is_an_error_and_no_traceback(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "odd", num_shards=2)
    index = {"weight_map": {"model.norm.weight": {"file": "a"}}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelFolderError, match="weight_map"):
        shape_of_folder(folder)
