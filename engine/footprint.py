"""How many bytes the engine needs: the panel predicts and the engine allocates by these formulas.

Standard library only, because the panel imports this file. Every function is arithmetic on numbers
from a model's config.json; nothing here looks at a device. Sizes are bytes, counts start `num_`.

    total = weights + KV cache + activations (one step's peak) + runtime (what an empty process has)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from math import ceil

MIB = 2**20
GIB = 2**30

INT4_GROUP = 128
"""Columns that share one scale and one zero point in int4."""

FBGEMM_BLOCK = 512
"""Columns to whose multiple fbgemm pads a packed int8 weight (on processors with AVX-512)."""


class WeightFormat(StrEnum):
    """How the weights lie in memory. int8 and int4 apply to the layers' Linear weights only,
    int8_dynamic to the head as well."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    INT8 = "int8"
    INT8_DYNAMIC = "int8_dynamic"
    INT4 = "int4"


QUANTIZED = (WeightFormat.INT8, WeightFormat.INT8_DYNAMIC, WeightFormat.INT4)


class DeviceKind(StrEnum):
    CPU = "cpu"
    CUDA = "cuda"


_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def dtype_bytes(name: str) -> int:
    """Bytes of one number of a computing type. Raises KeyError for int8 and int4."""
    return _DTYPE_BYTES[name]


# --- weights -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LinearShape:
    """`count` weight matrices [out_features, in_features] that quantization replaces."""

    out_features: int
    in_features: int
    count: int = 1

    @property
    def num_params(self) -> int:
        return self.out_features * self.in_features * self.count


def decoder_linears(
    *,
    num_layers: int,
    hidden_size: int,
    intermediate_size: int,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    is_gated: bool = True,
) -> tuple[LinearShape, ...]:
    """The Linear weights of a dense decoder: q, k, v, o and the (gated) MLP of every layer.

    Holds for Llama, Qwen2/3, Mistral, GLM-4, Gemma, Phi-3 and their like; a merged q/k/v or
    gate/up has the same rows, so it costs the same. Experts of a mixture are not Linear modules
    and stay in the computing type.
    """
    query = num_heads * head_dim
    return (
        LinearShape(query, hidden_size, num_layers),
        LinearShape(num_kv_heads * head_dim, hidden_size, 2 * num_layers),
        LinearShape(hidden_size, query, num_layers),
        LinearShape(intermediate_size, hidden_size, (2 if is_gated else 1) * num_layers),
        LinearShape(hidden_size, intermediate_size, num_layers),
    )


def linear_bytes(shape: LinearShape, weight_format: WeightFormat, dtype: str = "bfloat16") -> int:
    """Bytes of these weight matrices.

    dtype: the computing type, in which int8 keeps one scale a row. int4 lies two to a byte with one
    scale and one zero point, of 16 bits each, a group of 128 columns; the last group of a row is
    padded. int8_dynamic is at most this: as fbgemm packs it, with a scale, a zero point and a sum
    of 4 bytes each a row.
    Source: engine/quant, which allocates exactly these tensors.
    """
    if weight_format is WeightFormat.INT8:
        per_row = shape.in_features + dtype_bytes(dtype)
    elif weight_format is WeightFormat.INT8_DYNAMIC:
        per_row = ceil(shape.in_features / FBGEMM_BLOCK) * FBGEMM_BLOCK + 12
    elif weight_format is WeightFormat.INT4:
        groups = ceil(shape.in_features / INT4_GROUP)
        per_row = groups * (INT4_GROUP // 2 + 2 * 2)
    else:
        per_row = shape.in_features * dtype_bytes(weight_format)
    return per_row * shape.out_features * shape.count


def weight_bytes(
    num_params: int,
    weight_format: WeightFormat,
    *,
    linears: Iterable[LinearShape] = (),
    dtype: str = "bfloat16",
) -> int:
    """Bytes of a whole model.

    num_params: all parameters that are stored, a tied embedding counted once.
    linears: those that quantization replaces (see `decoder_linears`); embeddings, the head, norms
    and biases stay in `dtype`. Unquantized formats need no `linears` and ignore `dtype`.
    """
    if weight_format not in QUANTIZED:
        return num_params * dtype_bytes(weight_format)
    shapes = tuple(linears)
    kept = num_params - sum(shape.num_params for shape in shapes)
    assert kept >= 0, f"{num_params} parameters, but {-kept} more in the Linear weights"
    return kept * dtype_bytes(dtype) + sum(linear_bytes(s, weight_format, dtype) for s in shapes)


# --- KV cache ----------------------------------------------------------------------------------


def kv_bytes_per_token(
    *, num_layers: int, num_kv_heads: int, head_dim: int, dtype: str, v_head_dim: int | None = None
) -> int:
    """Bytes that one token's keys and values take in all layers.

    v_head_dim: where values are narrower than keys (DeepSeek); default: as head_dim.
    Source: Kwon et al., PagedAttention, SOSP 2023, section 3 (2 · layers · heads · dim · bytes).
    """
    width = head_dim + (head_dim if v_head_dim is None else v_head_dim)
    return num_layers * num_kv_heads * width * dtype_bytes(dtype)


def blocks_for(num_tokens: int, block_size: int) -> int:
    """KV blocks that one request of this length occupies."""
    return ceil(num_tokens / block_size)


def num_kv_blocks(max_num_seqs: int, max_seq_length: int, block_size: int) -> int:
    """Most KV blocks that these limits can ever use, the spare block 0 included."""
    return max_num_seqs * blocks_for(max_seq_length, block_size) + 1


def kv_bytes(num_blocks: int, block_size: int, bytes_per_token: int) -> int:
    return num_blocks * block_size * bytes_per_token


def default_kv_limit_bytes(available_bytes: int) -> int:
    """Most KV that a CPU engine takes unasked: a quarter of the free memory, at most 2 GiB."""
    return min(2 * GIB, available_bytes // 4)


# --- activations -------------------------------------------------------------------------------


def activation_bytes(
    *,
    max_batch_tokens: int,
    hidden_size: int,
    intermediate_size: int,
    vocab_size: int,
    dtype: str,
    num_sampled: int,
    attention_width: int | None = None,
    attention_scratch_bytes: int = 0,
) -> int:
    """The most that one step holds besides weights and KV.

    A layer peaks either in its MLP or in its attention, never in both, over the residual stream
    (residual, normed copy, one float32 copy in the norm). After the layers only the sampled rows
    become logits, in dtype and then in float32 with two more float32 copies for the sampler
    (probabilities and their sort with its int64 order: 4 + 4 + 4 + 8 bytes).

    attention_width: query heads · head_dim + 2 · KV heads · head_dim; default: 3 · hidden_size.
    attention_scratch_bytes: see `reference_attention_bytes`; 0 for a paged kernel.
    """
    size = dtype_bytes(dtype)
    width = 3 * hidden_size if attention_width is None else attention_width
    stream = max_batch_tokens * hidden_size * (2 * size + 4)
    mlp = max_batch_tokens * 4 * intermediate_size * size
    attention = max_batch_tokens * 3 * width * size + attention_scratch_bytes
    logits = num_sampled * vocab_size * (size + 20)
    return max(stream + max(mlp, attention), stream + logits)


def reference_attention_bytes(
    *,
    max_batch_tokens: int,
    max_seq_length: int,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    dtype: str,
) -> int:
    """Scratch of the reference attention (CPU): one sequence's keys and values gathered in a row,
    and its mask [chunk, length] in dtype."""
    size = dtype_bytes(dtype)
    gathered = 2 * max_seq_length * max(num_kv_heads, 1) * head_dim * size
    mask = max_batch_tokens * max_seq_length * size
    copies = 2 * max_batch_tokens * num_heads * head_dim * size
    return gathered + mask + copies


# --- runtime -----------------------------------------------------------------------------------

_RUNTIME_BYTES = {DeviceKind.CPU: 600 * MIB, DeviceKind.CUDA: 900 * MIB}


def runtime_bytes(device_kind: DeviceKind) -> int:
    """What the processes take before a model is there, on the device that holds the model.

    cpu: resident memory of the core (Python, torch, transformers) and of the API process.
    cuda: the CUDA context, cuBLAS workspaces and the allocator's rounding.
    """
    return _RUNTIME_BYTES[device_kind]
