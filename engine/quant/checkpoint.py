"""Checkpoints that were quantized by others, turned back into plain weights while they are read.

A module that was quantized is stored as several tensors with a common beginning; they become one
tensor, `….weight` in float32, before transformers sees them. So a model loads as if it had never
been quantized, layer by layer, and `--quantization` can make it small again. Where inputs were
meant to be rounded too, they are not.

    fp8                 weight (float8), weight_scale_inv a block (128 × 128), a row or one
    awq                 qweight [in, out / 8], qzeros [in / group, out / 8], scales [in / group, …]
    gptq                qweight [in / 8, out], qzeros [in / group, out / 8], scales, g_idx [in]
    compressed-tensors  weight (int8, float8) or weight_packed [out, in / 8], weight_scale, …

Sources: the formats as their makers describe them: DeepSeek-V3's README_WEIGHTS; AutoAWQ's
WQLinear_GEMM; AutoGPTQ's QuantLinear; compressed-tensors' documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.errors import ModelError, UnsupportedModel

_WORD_BITS = 32
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""The column that each nibble of a word holds, the lowest nibble first."""

_COMPRESSED_FORMATS = {"pack-quantized", "int-quantized", "float-quantized", "naive-quantized"}
_ONLY_FOR_INPUTS = (
    ".input_scale",
    ".input_zero_point",
    ".input_global_scale",
    ".output_scale",
    ".k_scale",
    ".v_scale",
    ".q_scale",
    ".activation_scale",
)


@dataclass(frozen=True, slots=True)
class Scheme:
    """How a checkpoint was quantized, as its config.json says."""

    method: str
    bits: int = 8
    block: tuple[int, int] | None = None
    stores_zero_less_one: bool = False

    def plain(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Tensors by their plain names.

        stored: slices of a file by name; of each module all or none. Raises ModelError for a module
        of which a part is missing.
        """
        used, weights = set[str](), dict[str, Tensor]()
        for name in stored:
            found = _module(name, stored)
            if found is None:
                continue
            module, build, parts = found
            present = {part: f"{module}.{part}" for part in parts if f"{module}.{part}" in stored}
            used |= set(present.values())
            try:
                weights[f"{module}.weight"] = build(
                    self, {part: stored[name][...] for part, name in present.items()}
                )
            except KeyError as missing:
                raise ModelError(
                    f"{module} is quantized ({self.method}) but has no {missing.args[0]}.",
                    fix="Download the model again.",
                ) from None
        kept = {name: slice_ for name, slice_ in stored.items() if name not in used}
        return {n: t for n, t in kept.items() if not n.endswith(_ONLY_FOR_INPUTS)} | weights


_Build = Callable[[Scheme, Mapping[str, Tensor]], Tensor]


def scheme_of(config: Mapping[str, Any], name: str) -> Scheme | None:
    """The scheme of a config.json, None if it is not quantized.

    name: the model type, for the message. Raises UnsupportedModel for what is not read here.
    """
    given = config.get("quantization_config") or config.get("compression_config")
    if not given:
        return None
    given = dict(given)
    method = str(given.get("quant_method", "an unnamed method")).lower()
    read = _SCHEMES.get(method)
    if read is None:
        raise _unsupported(name, method)
    return read(given, name)


def _fp8(given: Mapping[str, Any], name: str) -> Scheme:
    if str(given.get("fmt", "e4m3")) != "e4m3":
        raise _unsupported(name, f"fp8 of format {given['fmt']}")
    block = given.get("weight_block_size")
    return Scheme("fp8", block=(int(block[0]), int(block[1])) if block else None)


def _awq(given: Mapping[str, Any], name: str) -> Scheme:
    version = str(given.get("version", "gemm")).lower()
    bits = int(given.get("bits", given.get("w_bit", 4)))
    if version != "gemm" or bits != 4:
        raise _unsupported(name, f"awq of {bits} bits, version {version}")
    return Scheme("awq", bits=4)


def _gptq(given: Mapping[str, Any], name: str) -> Scheme:
    bits = given.get("bits")
    layout = str(given.get("checkpoint_format", "gptq")).lower()
    if bits not in (2, 4, 8) or layout not in ("gptq", "gptq_v2") or given.get("is_marlin_format"):
        raise _unsupported(name, f"gptq of {bits} bits, format {layout}")
    return Scheme("gptq", bits=bits, stores_zero_less_one=layout == "gptq")


def _compressed(given: Mapping[str, Any], name: str) -> Scheme:
    layout = str(given.get("format", "an unnamed format"))
    if layout not in _COMPRESSED_FORMATS:
        raise _unsupported(name, f"compressed-tensors, {layout}")
    if (given.get("sparsity_config") or {}).get("format", "dense") != "dense":
        raise _unsupported(name, "compressed-tensors, sparse")
    if (given.get("transform_config") or {}).get("config_groups"):
        raise _unsupported(name, "compressed-tensors with rotated weights")
    weights = [
        dict(g.get("weights") or {}) for g in dict(given.get("config_groups") or {}).values()
    ]
    bits = {int(w.get("num_bits") or 0) for w in weights}
    blocks = {tuple(w["block_structure"]) for w in weights if w.get("block_structure")}
    if len(bits) != 1 or len(blocks) > 1 or not bits <= {4, 8}:
        raise _unsupported(name, f"compressed-tensors of {sorted(bits)} bits in blocks {blocks}")
    return Scheme("compressed-tensors", bits=bits.pop(), block=blocks.pop() if blocks else None)


_SCHEMES = {"fp8": _fp8, "awq": _awq, "gptq": _gptq, "compressed-tensors": _compressed}


def _unsupported(name: str, method: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"This engine does not run {name}: the model checkpoint is already quantized ({method}), "
        f"which is not read here; {', '.join(_SCHEMES)} are.",
        fix="Deploy it with the vLLM runtime instead, or choose the unquantized model.",
    )


def _module(name: str, given: Collection[str]) -> tuple[str, _Build, tuple[str, ...]] | None:
    """Of a quantized module's main tensor: the module, how its weight is built, and from which
    parts. None for all other tensors."""
    module, _, part = name.rpartition(".")
    if part == "qweight":
        return module, _build_words, _WORD_PARTS
    if part == "weight_packed":
        return module, _build_packed, _PACKED_PARTS
    if part == "weight" and any(f"{module}.{scale}" in given for scale in _SCALES):
        return module, _build_scaled, _SCALED_PARTS
    return None


_SCALES = ("weight_scale_inv", "weight_scale")
_WORD_PARTS = ("qweight", "qzeros", "scales", "g_idx")
_PACKED_PARTS = (
    "weight_packed",
    "weight_scale",
    "weight_zero_point",
    "weight_shape",
    "weight_g_idx",
)
_SCALED_PARTS = ("weight", *_SCALES, "weight_zero_point")


def _build_words(scheme: Scheme, parts: Mapping[str, Tensor]) -> Tensor:
    return _build_awq(scheme, parts) if scheme.method == "awq" else _build_gptq(scheme, parts)


def _build_awq(scheme: Scheme, parts: Mapping[str, Tensor]) -> Tensor:
    """[out, in] = (q − zero) · scale, all packed along the outputs in AWQ's order."""
    codes, zeros = (
        _unpack(parts[part], scheme.bits)[..., _inverse(_AWQ_ORDER)].flatten(1)
        for part in ("qweight", "qzeros")
    )
    group = torch.arange(codes.shape[0]) // (codes.shape[0] // zeros.shape[0])
    return ((codes - zeros[group]) * parts["scales"].float()[group]).t().contiguous()


def _build_gptq(scheme: Scheme, parts: Mapping[str, Tensor]) -> Tensor:
    """[out, in] = (q − zero) · scale; weights are packed along the inputs, zeros along the outputs.
    The older layout stores zeros less one. g_idx: the group of each input (act-order)."""
    codes = _unpack(parts["qweight"].t(), scheme.bits).flatten(1).t()  # [in, out]
    zeros = _unpack(parts["qzeros"], scheme.bits).flatten(1)
    if scheme.stores_zero_less_one:
        zeros = (zeros + 1) & (2**scheme.bits - 1)
    scales = parts["scales"].float()
    zeros = zeros[:, : scales.shape[1]]
    group = parts.get("g_idx")
    if group is None:
        group = torch.arange(codes.shape[0]) // (codes.shape[0] // scales.shape[0])
    group = group.long()
    return ((codes - zeros[group]) * scales[group]).t().contiguous()


def _build_packed(scheme: Scheme, parts: Mapping[str, Tensor]) -> Tensor:
    """[out, in] = (q − zero) · scale, q and zero stored with 2^(bits − 1) added."""
    out_features, in_features = (int(size) for size in parts["weight_shape"])
    offset = 2 ** (scheme.bits - 1)
    codes = _unpack(parts["weight_packed"], scheme.bits).flatten(1)[:, :in_features] - offset
    zeros = parts.get("weight_zero_point")
    if zeros is not None and zeros.dtype is torch.int32:  # packed along the outputs
        zeros = _unpack(zeros.t(), scheme.bits).flatten(1)[:, :out_features].t() - offset
    group = parts.get("weight_g_idx")
    return _scaled(codes, parts["weight_scale"], zeros, None, group)


def _build_scaled(scheme: Scheme, parts: Mapping[str, Tensor]) -> Tensor:
    scale = next(parts[name] for name in _SCALES if name in parts)
    return _scaled(parts["weight"], scale, parts.get("weight_zero_point"), scheme.block, None)


def _scaled(
    codes: Tensor,
    scale: Tensor,
    zeros: Tensor | None,
    block: tuple[int, int] | None,
    group: Tensor | None,
) -> Tensor:
    """(codes − zeros) · scale. codes: [out, in]; scale, zeros: one, one a row, or one a block.

    block: its size; by default the whole weight is divided evenly. group: the scale of each column.
    """

    def spread(values: Tensor) -> Tensor:
        values = values.float()
        if values.numel() == 1:
            return values.reshape(1, 1)
        if values.dim() == 1:
            return values[:, None]
        if group is not None and int(group.max()) >= 0:
            return values[:, group.long()]
        for dim, size in enumerate(codes.shape):
            if values.shape[dim] not in (1, size):
                each = block[dim] if block else -(-size // values.shape[dim])
                values = values.repeat_interleave(each, dim).narrow(dim, 0, size)
        return values

    weight = codes.float()
    if zeros is not None:
        weight = weight - spread(zeros)
    return weight * spread(scale)


def _unpack(words: Tensor, bits: int) -> Tensor:
    """words: [rows, columns] int32. Returns [rows, columns, 32 / bits] int32, lowest bits first."""
    shifts = torch.arange(0, _WORD_BITS, bits, dtype=torch.int32)
    return (words[..., None] >> shifts) & (2**bits - 1)


def _inverse(order: tuple[int, ...]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)
