"""From a folder to a model on its device, layer by layer, with a sign of progress after each.

The model is built on the meta device, which costs no memory, and measured; what does not fit is
refused before a byte of weights is read. Then each layer's tensors go from the mapped file to the
device. Renaming and fusing of checkpoint tensors (experts, for example) is transformers' own,
called one layer at a time: a layer is quantized and its siblings are merged before the next one is
read, so the pieces that they are made of are there for one layer only, and the GPU's allocator can
use their place again.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import convert_and_load_state_dict_in_model
from transformers.modeling_utils import LoadStateDictConfig
from transformers.utils import logging as transformers_logging

from engine import footprint
from engine.config import EngineConfig
from engine.errors import ConfigError, ModelError, ModelTooLarge
from engine.model import adapt, language
from engine.model.device import choose_device, choose_dtype, dtype_name, free_bytes
from engine.model.folder import Folder, read_folder
from engine.model.merge import merge_siblings
from engine.model.packed import PackedLinear
from engine.model.parallel import WHOLE, Rank, Sharding, shard
from engine.quant import checkpoint
from engine.quant.linear import QuantizedLinear
from engine.quant.replace import (
    FORMATS,
    head,
    kept_expert_params,
    quantizable_shapes,
    quantize_head,
    quantize_loaded,
)

logger = logging.getLogger("engine.load")

Report = Callable[[float, str], None]
"""Told the share done (0 … 1) and a few words, e.g. "12 of 30 layers"."""

_LAYER_NUMBER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    model: PreTrainedModel
    device: torch.device
    dtype: torch.dtype
    weight_bytes: int
    sharding: Sharding


def load_model(config: EngineConfig, report: Report, rank: Rank = WHOLE) -> LoadedModel:
    """The model of `config.model_path`, in evaluation mode, ready to be adapted.

    rank: only this rank's part of the weights is read; `parallel.connect` must follow.
    Raises ModelError for unusable files, UnsupportedModel, ModelTooLarge, ConfigError.
    """
    transformers_logging.disable_progress_bar()
    folder = read_folder(config.model_path)
    model_config = adapt.read_config(folder)
    device = choose_device(config.device_map)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        # cuDNN's attention makes a plan for every new KV length: a step of a 7B model took 98 ms.
        torch.backends.cuda.enable_cudnn_sdp(False)
    if device.type == "cuda" and config.quantization == "int8_dynamic":
        raise ConfigError(
            "int8_dynamic computes on the CPU only; the model goes to a GPU.",
            fix="Choose --quantization int8, or --device-map cpu.",
        )
    dtype = choose_dtype(config, model_config, device)
    model = _build_on_meta(model_config, dtype)
    sharding = shard(model, rank, folder.tensors)
    _refuse_too_large(model, config, device, dtype)
    _load_weights(model, folder, sharding, device, dtype, config.quantization, report)
    model.eval().requires_grad_(False)
    return LoadedModel(model, device, dtype, stored_bytes(model), sharding)


def stored_bytes(model: torch.nn.Module) -> int:
    """Bytes of all parameters, buffers and packed weights; shared ones count once."""
    tensors = {tensor.data_ptr(): tensor for _, tensor in _tensors(model)}
    kinds = (QuantizedLinear, PackedLinear)
    packed = sum(m.packed_bytes for m in model.modules() if isinstance(m, kinds))
    return sum(t.numel() * t.element_size() for t in tensors.values()) + packed


def _build_on_meta(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    model_class = language.model_class(config)
    adapt.check_class(model_class, config.model_type)
    config.dtype = config.get_text_config().dtype = dtype
    with ExitStack() as stack:
        for context in model_class.get_init_context(dtype, False, False, False):
            stack.enter_context(context)
        model: PreTrainedModel = model_class(config)
    language.leave_out_vision(model)
    return model


def _refuse_too_large(
    model: PreTrainedModel, config: EngineConfig, device: torch.device, dtype: torch.dtype
) -> None:
    name = dtype_name(dtype)
    weight_format = footprint.WeightFormat(
        name if config.quantization == "none" else config.quantization
    )
    shapes = quantizable_shapes(model)
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    found = head(model)
    if found and config.quantization in FORMATS and FORMATS[config.quantization].has_head:
        shapes.append(footprint.LinearShape(found[1].out_features, found[1].in_features))
        tied.discard(f"{found[0]}.weight")  # it becomes a tensor of its own
    num_params = sum(
        p.numel() for n, p in model.named_parameters(remove_duplicate=False) if n not in tied
    )
    need = footprint.weight_bytes(num_params, weight_format, linears=shapes, dtype=name)
    free = free_bytes(device, config.memory_fraction)
    if need > free:
        where = "GPU " + str(device.index) if device.type == "cuda" else "the CPU's memory"
        raise ModelTooLarge(
            f"{config.model_name} needs {need / footprint.GIB:.2f} GiB for its weights in "
            f"{weight_format}; {free / footprint.GIB:.2f} GiB may be filled on {where}.",
            fix="Choose int8 or int4, a smaller model, or a device with more memory.",
        )


def _load_weights(
    model: PreTrainedModel,
    folder: Folder,
    sharding: Sharding,
    device: torch.device,
    dtype: torch.dtype,
    quantization: str,
    report: Report,
) -> None:
    conversions: Any = get_model_conversion_mapping(model)
    load_config = LoadStateDictConfig(
        pretrained_model_name_or_path=str(folder.path),
        device_map={"": device},
        dtype=dtype,
        dtype_plan=model._get_dtype_plan(dtype),
        weight_mapping=conversions,
    )
    stored = checkpoint.scheme_of(folder.config, folder.config["model_type"])
    parts = _parts(language.without_vision(folder.tensors, model.config))
    missing = set(model.state_dict())
    num_merged, info = 0, cast(Any, None)
    with ExitStack() as stack:
        files = _open_files(folder, stack)
        for done, names in enumerate(parts, start=1):
            tensors = {name: files[folder.tensors[name]].get_slice(name) for name in names}
            if stored:
                tensors = stored.plain(tensors)
            tensors = {name: sharding.part(name, tensor) for name, tensor in tensors.items()}
            info, _ = convert_and_load_state_dict_in_model(model, tensors, load_config)
            _refuse_misfits(info, folder)
            missing &= info.missing_keys
            if quantization in FORMATS:
                quantize_loaded(model, FORMATS[quantization])
            num_merged += merge_siblings(model)
            report(done / len(parts), f"{done} of {len(parts)} parts")
    logger.info("Merged %d groups of sibling projections", num_merged)
    info.missing_keys = missing
    model._finalize_model_loading(model, load_config, info)
    _refuse_incomplete(info.missing_keys, model, folder)
    if quantization in FORMATS:
        quantize_head(model, FORMATS[quantization])
        _tell_kept_experts(model, quantization)
    on_meta = [name for name, tensor in _tensors(model) if tensor.is_meta]
    assert not on_meta, f"transformers left these without values: {on_meta}"


def _tell_kept_experts(model: PreTrainedModel, quantization: str) -> None:
    num_params = kept_expert_params(model)
    if num_params:
        logger.warning(
            "%s: %.2f billion weights of experts stay as they are; only Linear layers change",
            quantization,
            num_params / 1e9,
        )


def _tensors(model: torch.nn.Module) -> Iterable[tuple[str, torch.Tensor]]:
    return (*model.named_parameters(), *model.named_buffers())


def _parts(stored: Iterable[str]) -> list[list[str]]:
    """Names of tensors by layer; what is in no layer (embedding, head) comes first."""
    parts: dict[int, list[str]] = {}
    for name in stored:
        number = _LAYER_NUMBER.search(name)
        parts.setdefault(int(number[1]) if number else -1, []).append(name)
    return [parts[number] for number in sorted(parts)]


def _open_files(folder: Folder, stack: ExitStack) -> dict[Path, Any]:
    paths = sorted(set(folder.tensors.values()))
    return {path: stack.enter_context(safe_open(path, framework="pt")) for path in paths}


def _refuse_misfits(info: Any, folder: Folder) -> None:
    for name, *shapes in sorted(info.mismatched_keys):
        raise ModelError(
            f"{folder.path}: {name} has another shape than config.json says {shapes}.",
            fix="config.json and weights belong to different models: download both again.",
        )
    for name, error in info.conversion_errors.items():
        raise ModelError(f"{folder.path}: {name} cannot be used: {error}")


def _refuse_incomplete(missing: set[str], model: PreTrainedModel, folder: Folder) -> None:
    """transformers would fill what is missing with random numbers."""
    names = sorted(missing - set(getattr(model, "all_tied_weights_keys", None) or ()))
    if names:
        raise ModelError(
            f"{folder.path} lacks {len(names)} tensors of the model, {names[0]} among them.",
            fix="Download the model again.",
        )
