"""Make a transformers model attend through the engine, or refuse it by name.

A probe run of a few tokens finds what each layer keeps: the engine serves a model only if every
layer asks once for plain causal (or sliding-window) attention over its own keys and values. Models
with recurrent state, ALiBi, chunked attention and the like are refused with the advice to use vLLM.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from engine.attention import op
from engine.attention.metadata import Variant
from engine.errors import ModelError, UnsupportedModel
from engine.model import language
from engine.model.folder import Folder
from engine.quant import checkpoint

_PROBE_TOKENS = 4
_KNOWN_LAYER_TYPES = {"full_attention", "sliding_attention"}
_LENGTH_DEPENDENT_ROPE = {"dynamic", "longrope"}


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one layer keeps for each token, and how many query heads read it."""

    num_heads: int
    num_kv_heads: int
    k_dim: int
    v_dim: int


class Probe:
    """An attention step that computes nothing and remembers what it was asked for."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.layers: dict[int, LayerShape] = {}
        self.windows: set[int] = set()
        self.mask_windows: set[int] = set()
        self.other_masks = 0

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, variant: Variant
    ) -> Tensor:
        self.calls.append(layer)
        self.layers[layer] = LayerShape(query.shape[1], key.shape[1], key.shape[2], value.shape[2])
        if variant.sliding_window:
            self.windows.add(variant.sliding_window)
        return query.new_zeros(*query.shape[:2], value.shape[2])

    def see_mask(self, mask_function: Callable[..., Any], window: int | None) -> None:
        if window == 0:
            return  # made for no layer: such a mask hides everything
        if not _is_causal(mask_function, window):
            self.other_masks += 1
        elif window:
            self.mask_windows.add(window)


def _is_causal(mask_function: Callable[..., Any], window: int | None) -> bool:
    """Whether a mask is causal, within `window` if there is one. Asked at the telling places: the
    future, oneself, the neighbour across a multiple of the window (a chunked mask hides it), the
    last visible and the first hidden token of the window."""
    size = window or 64
    zero = torch.tensor(0)

    def sees(query: int, key: int) -> bool:
        return bool(mask_function(zero, zero, torch.tensor(query), torch.tensor(key)))

    plain = sees(size, size) and sees(size, size - 1) and not sees(size, size + 1)
    return plain and sees(size, 1) and sees(2 * size, size) is (window is None)


def read_config(folder: Folder) -> PreTrainedConfig:
    """The model's configuration. Raises UnsupportedModel for what it already tells to be not ours,
    ModelError if it cannot be read. Code that comes with a model is never run."""
    path, name = folder.path / "config.json", folder.config.get("model_type")
    if name not in CONFIG_MAPPING:
        code = ", and its own code is never run" if "auto_map" in folder.config else ""
        raise _unsupported(str(name), f"type is not one that transformers knows{code}")
    try:
        config = AutoConfig.from_pretrained(
            folder.path, trust_remote_code=False, local_files_only=True
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path} does not describe a {name} model: {error}", fix="Download it again."
        ) from error
    assert isinstance(config, PreTrainedConfig), config
    checkpoint.scheme_of(folder.config, config.model_type)
    check_config(config)
    return config


def check_config(config: PreTrainedConfig) -> None:
    """Refuse what its configuration already tells. Raises UnsupportedModel."""
    name = config.model_type
    if name not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not language.sees(config):
        raise _unsupported(name, "is not a text-generating model of transformers")
    trained_as = config.architectures or []
    if trained_as and not set(trained_as) & language.class_names(config):
        raise _unsupported(name, f"was trained as {', '.join(trained_as)}, not to continue text")
    if config.is_encoder_decoder:
        raise _unsupported(name, "is an encoder-decoder model")
    others = set(getattr(config.get_text_config(), "layer_types", None) or ()) - _KNOWN_LAYER_TYPES
    if others:
        raise _unsupported(name, f"has layers of type {', '.join(sorted(others))}")


def check_class(model_class: type[PreTrainedModel], name: str) -> None:
    """Refuse what its class already tells. Raises UnsupportedModel."""
    if getattr(model_class, "_is_stateful", False):
        raise _unsupported(name, "keeps a recurrent state")


def adapt(model: PreTrainedModel) -> tuple[LayerShape, ...]:
    """Register our attention with the model and find out what its layers keep.

    Returns one shape a layer, in the order of `layer_idx`. Raises UnsupportedModel.
    """
    model.set_attn_implementation(op.NAME)
    probe = Probe()
    ids = torch.zeros(1, _PROBE_TOKENS, dtype=torch.long, device=model.device)
    positions = torch.arange(_PROBE_TOKENS, device=model.device)[None]
    with torch.inference_mode(), op.during(probe):
        model(input_ids=ids, position_ids=positions, use_cache=False)
    _check_probe(probe, model.config)
    return tuple(probe.layers[layer] for layer in range(len(probe.layers)))


def _check_probe(probe: Probe, config: PreTrainedConfig) -> None:
    name, num_layers = config.model_type, config.get_text_config().num_hidden_layers
    if sorted(probe.calls) != list(range(num_layers)):
        raise _unsupported(
            name,
            f"asks for attention {len(probe.calls)} times in {len(set(probe.calls))} of its "
            f"{num_layers} layers, where once in each is needed",
        )
    if probe.other_masks:
        raise _unsupported(name, "uses an attention mask that is neither causal nor sliding")
    layer_types = getattr(config.get_text_config(), "layer_types", None)
    is_sliding = layer_types is None or "sliding_attention" in layer_types
    if is_sliding and not probe.mask_windows <= probe.windows:
        raise _unsupported(name, f"hides its sliding window of {probe.mask_windows} tokens")


def usable_length(config: PreTrainedConfig) -> int | None:
    """Most tokens of a request for which the model's positions hold, or None if it names no limit.

    Rotary embeddings that change with the length of the sequence would change for all requests of
    a step; such models are served up to the length for which nothing changes.
    """
    text = config.get_text_config()
    rope: dict[str, Any] = getattr(text, "rope_parameters", None) or {}
    limit: int | None = getattr(text, "max_position_embeddings", None)
    if rope.get("rope_type") in _LENGTH_DEPENDENT_ROPE:
        return rope.get("original_max_position_embeddings") or limit
    return limit


def _unsupported(name: str, why: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"This engine does not run {name}: the model {why}.",
        fix="Deploy it with the vLLM runtime instead.",
    )
