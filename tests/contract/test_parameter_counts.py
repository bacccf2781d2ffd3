"""The formulas for parameter counts against transformers' own models, built on the meta device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from engine.model.count import count as build_and_count
from panel.models.catalog import catalog
from panel.models.families import FAMILIES, count

_BASE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 160,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 48}
_LATENT = {
    **_EXPERTS,
    "num_key_value_heads": 4,
    "kv_lora_rank": 24,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "n_routed_experts": 4,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
_MORE: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {**_EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 80},
    "qwen3_moe": {**_EXPERTS, "num_experts": 4, "mlp_only_layers": [0]},
    "deepseek_v2": {**_LATENT, "q_lora_rank": None},
    "deepseek_v3": {**_LATENT, "q_lora_rank": 40},
    "gemma3_text": {"sliding_window": 32},
}
_REMOTE_CODE = {"internlm2"}


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("biased", [True, False], ids=["biased", "plain"])
@pytest.mark.parametrize("family", sorted(set(FAMILIES) - _REMOTE_CODE))
def test_a_familys_formula_counts_what_transformers_builds(
    family: str, biased: bool, tied: bool
) -> None:
    config = {**_BASE, **_MORE.get(family, {}), "model_type": family}
    config["tie_word_embeddings"] = tied and family != "phi"  # its head has a bias of its own
    config |= {"attention_bias": biased, "use_qkv_bias": biased}
    config["mlp_bias"] = biased and family != "deepseek_v2"  # no formula for that
    formula, built = count(config), build_and_count(dict(config))
    assert formula is not None
    assert formula.num_params == built["num_params"]
    assert built["tied"] == config["tie_word_embeddings"]
    assert _rows((s.out_features, s.in_features, s.count) for s in formula.linears) == _rows(
        shape
        for shape in built["linears"]
        if shape[0] > 1  # a shared expert's gate is no matter
    )


def _rows(shapes: Iterable[Iterable[int]]) -> Counter[int]:
    """Rows by their width: a merged gate/up has the same rows as two, and costs the same."""
    rows: Counter[int] = Counter()
    for out, width, times in shapes:
        rows[width] += out * times
    return rows


@pytest.mark.parametrize("entry", catalog(), ids=lambda entry: entry.name)
def test_the_catalogs_numbers_are_those_of_transformers(entry: Any) -> None:
    built = build_and_count(dict(entry.config))
    assert built["num_params"] == entry.num_params
    assert sum(s.num_params for s in entry.counted.linears) == sum(
        out * width * n for out, width, n in built["linears"]
    )
