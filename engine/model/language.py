"""The language half of models that also see: what answers requests of text.

Their vision tower is not built, not read and takes no memory; a text's positions are the same on
all three of their rotary axes, which transformers' model makes of plain positions itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

SEEING_FAMILIES = frozenset({"glm4v", "qwen2_vl", "qwen2_5_vl"})
"""Proven to answer texts as transformers does; others that see are refused by name."""

_OF_VISION = re.compile(r"(^|\.)visual\.")


def sees(config: PreTrainedConfig) -> bool:
    """Whether the model is one of the seeing families."""
    return config.model_type in SEEING_FAMILIES


def class_names(config: PreTrainedConfig) -> set[str]:
    """The classes of transformers whose checkpoints can be served for this type of model."""
    if sees(config):
        return {str(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[config.model_type])}
    return {str(name) for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()}


def model_class(config: PreTrainedConfig) -> Any:
    """The class that computes it."""
    seeing, plain = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING
    return (seeing if sees(config) else plain)[type(config)]


def leave_out_vision(model: PreTrainedModel) -> None:
    """Take the vision tower off a model on the meta device, if it has one."""
    inner: Any = model.base_model
    if sees(model.config):
        inner.visual = None


def without_vision(names: Iterable[str], config: PreTrainedConfig) -> list[str]:
    """The stored tensors that the language half needs."""
    return [name for name in names if not (sees(config) and _OF_VISION.search(name))]
