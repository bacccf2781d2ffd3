"""FastBlock: a decoder layer in fewer, larger operations, read off a transformers layer's names.

    h ─ norm ─ qkv ─ q/k norm ─ rope ─ attend ─ o ─ (norm) ─ + ─ h'
    h' ─ norm ─ gate·up ─ act·mul ─ down ─ (norm) ─ + ─ h"

It owns no weights of its own: its products are the very modules (merged, quantized or split over
ranks) that stood in the layer. What it reads may be wrong about a model it never saw, so nobody
uses a block that `fast` has not compared with its layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from engine.attention import op
from engine.attention.metadata import Variant
from engine.model.adapt import LayerShape
from engine.model.merge import Merged
from engine.model.norm import NotFast, RMSNorm, add_rms_norm, read_norm, rms_norm
from engine.model.rope import Form, Given, Rotary

_NORM_PLACES: tuple[tuple[str | None, str | None, str | None, str | None], ...] = (
    # before attention, after it, before the MLP, after it
    ("input_layernorm", None, "post_attention_layernorm", None),
    (
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    ),
    (
        "input_layernorm",
        "post_self_attn_layernorm",
        "post_attention_layernorm",
        "post_mlp_layernorm",
    ),
    (None, "post_attention_layernorm", None, "post_feedforward_layernorm"),
    ("input_layernorm", None, "pre_feedforward_layernorm", None),
)
_QK_NORM_NAMES = (
    ("q_norm", "k_norm"),
    ("query_layernorm", "key_layernorm"),
    ("q_layernorm", "k_layernorm"),
)
_OUTPUT_NAMES = ("o_proj", "dense", "out_proj")
_MLP_NAMES = ("mlp", "feed_forward", "block_sparse_moe")
_MERGED_QKV, _MERGED_GATE_UP = "_merged_q_proj", "_merged_gate_proj"
_ACT_NAMES = ("act_fn", "activation_fn", "activation")
_Elementwise = Callable[[Tensor], Tensor]


class FastBlock(nn.Module):
    """Stands in the model's list of layers and takes the same call.

    forward: hidden_states [1, tokens, hidden] → the same shape. Attends through the current step.
    """

    def __init__(self, layer: nn.Module, index: int, shape: LayerShape, variant: Variant) -> None:
        """How it rotates is not known yet: `fast` sets `attention.rotary` by trying.

        Raises NotFast where the layer has a part that is not known here.
        """
        super().__init__()
        for name, value in vars(layer).items():  # what the model's loop may ask a layer for
            if not name.startswith("_") and isinstance(value, str | int | float):
                setattr(self, name, value)
        norms = _read_norms(layer)
        self.before_attention, self.after_attention, self.before_mlp, self.after_mlp = norms
        self.attention = FastAttention(layer.self_attn, index, shape, variant)  # type: ignore[arg-type]  # read_norms has checked the children
        self.mlp = _read_mlp(layer)
        self.multiplier = float(getattr(layer, "residual_multiplier", 1.0))

    def forward(
        self, hidden_states: Tensor, *_: Any, position_embeddings: Given | None = None, **__: Any
    ) -> Tensor:
        residual = hidden_states[0]
        x = residual if self.before_attention is None else self.before_attention(residual)
        x = self._scaled(self.attention(x, position_embeddings), self.after_attention)
        x, residual = add_rms_norm(x, residual, self.before_mlp)
        x = self._scaled(self.mlp(x), self.after_mlp)
        return (residual + x)[None]

    def _scaled(self, x: Tensor, norm: RMSNorm | None) -> Tensor:
        x = x if norm is None else norm(x)
        return x if self.multiplier == 1.0 else x * self.multiplier


class FastAttention(nn.Module):
    """q, k and v in one product; their norms and rotation on queries and keys side by side."""

    head_weight: Tensor | None

    def __init__(
        self, attention: nn.Module, index: int, shape: LayerShape, variant: Variant
    ) -> None:
        super().__init__()
        self.index = index
        self.variant = variant
        self.rotary = Rotary(Form.NONE, shape.k_dim)
        self.rotates_first = False
        self.num_heads = shape.num_heads
        self.num_kv_heads = shape.num_kv_heads
        self.head_dim = shape.k_dim
        if shape.v_dim != shape.k_dim:
            raise NotFast("values are narrower than keys")
        self.qkv, self.output = _read_projections(attention)
        width = (shape.num_heads + 2 * shape.num_kv_heads) * shape.k_dim
        if getattr(self.qkv, "out_features", None) != width:
            raise NotFast(f"q, k and v are not {width} rows together")
        self._read_qk_norms(attention)

    @property
    def has_norms(self) -> bool:
        """Whether queries and keys are normed, before or after they are rotated."""
        return self.head_weight is not None or self.q_norm is not None

    def _read_qk_norms(self, attention: nn.Module) -> None:
        """Norms a head become one table of weights [heads + kv_heads, head_dim]; norms of all
        heads together stay two."""
        found = [
            [read_norm(getattr(attention, name)) for name in names]
            for names in _QK_NORM_NAMES
            if all(isinstance(getattr(attention, name, None), nn.Module) for name in names)
        ]
        self.q_norm, self.k_norm = found[0] if found else (None, None)
        self.register_buffer("head_weight", None)
        if not found:
            return
        q_norm, k_norm = found[0]
        assert q_norm.weight is not None
        assert k_norm.weight is not None
        sizes = (q_norm.weight.shape[0], k_norm.weight.shape[0])
        if sizes == (self.head_dim, self.head_dim) and q_norm.eps == k_norm.eps:
            rows = (
                q_norm.weight.expand(self.num_heads, -1),
                k_norm.weight.expand(self.num_kv_heads, -1),
            )
            self.head_weight, self.eps = torch.cat(rows), q_norm.eps
        elif sizes != (self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim):
            raise NotFast(f"norms of queries and keys have {sizes} weights")

    def forward(self, x: Tensor, given: Given | None) -> Tensor:
        """x: [tokens, hidden] → [tokens, hidden]."""
        qkv = self.qkv(x).unflatten(-1, (-1, self.head_dim))  # [tokens, heads + 2 kv, head_dim]
        num_rotated = self.num_heads + self.num_kv_heads
        qk, value = qkv[:, :num_rotated], qkv[:, num_rotated:]
        if self.rotates_first:
            qk = self._normed(self.rotary(qk, given))
        else:
            qk = self.rotary(self._normed(qk), given)
        query, key = qk[:, : self.num_heads], qk[:, self.num_heads :]
        attended = op.attend(self.index, query, key, value, self.variant)
        return self.output(attended.flatten(1))

    def _normed(self, qk: Tensor) -> Tensor:
        if self.head_weight is not None:
            normed = rms_norm(qk.to(self.head_weight.dtype), None, self.eps)
            return (normed * self.head_weight).to(qk.dtype)
        if self.q_norm is None or self.k_norm is None:
            return qk
        query, key = qk[:, : self.num_heads].flatten(1), qk[:, self.num_heads :].flatten(1)
        joined = torch.cat((self.q_norm(query), self.k_norm(key)), -1)
        return joined.unflatten(-1, (-1, self.head_dim))


class GatedMlp(nn.Module):
    """act(gate) · up from one product, then down."""

    def __init__(self, gate_up: nn.Module, down: nn.Module, act: _Elementwise) -> None:
        super().__init__()
        self.gate_up = gate_up
        self.down = down
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.down(gated(self.gate_up(x), self.act))


def gated(gate_up: Tensor, act: _Elementwise) -> Tensor:
    """act(left half) · right half."""
    gate, up = gate_up.chunk(2, -1)
    return act(gate) * up


class OpaqueMlp(nn.Module):
    """An MLP of another kind (experts, no gate): called as transformers calls it."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        output = self.mlp(x[None])
        return (output[0] if isinstance(output, tuple) else output)[0]


def _read_norms(layer: nn.Module) -> list[RMSNorm | None]:
    """The norms before attention, after it, before the MLP and after it."""
    names = {
        name
        for name, child in layer.named_children()
        if name != "self_attn" and name not in _MLP_NAMES and not _does_nothing(child)
    }
    places = next((p for p in _NORM_PLACES if set(p) - {None} == names), None)
    if places is None or not isinstance(getattr(layer, "self_attn", None), nn.Module):
        raise NotFast(f"the layer consists of {_names(layer)}")
    return [None if name is None else read_norm(getattr(layer, name)) for name in places]


def _names(module: nn.Module) -> str:
    return ", ".join(name for name, _ in module.named_children())


def _does_nothing(module: nn.Module) -> bool:
    return isinstance(module, nn.Dropout | nn.Identity)


def _read_projections(attention: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The product for q, k and v together and the one for the output."""
    children = {n: c for n, c in attention.named_children() if not _does_nothing(c)}
    merged = children.pop(_MERGED_QKV, None)
    if isinstance(merged, Merged):
        qkv: nn.Module | None = merged.linear
        for name in ("q_proj", "k_proj", "v_proj"):
            children.pop(name)
    else:
        qkv = children.pop("qkv_proj", None)
    outputs = [children.pop(name) for name in _OUTPUT_NAMES if name in children]
    known = {name for names in _QK_NORM_NAMES for name in names} | {"rotary_emb"}
    others = sorted(set(children) - known)
    if qkv is None or len(outputs) != 1 or others:
        raise NotFast(f"attention consists of {_names(attention)}")
    return qkv, outputs[0]


def _read_mlp(layer: nn.Module) -> nn.Module:
    found = [getattr(layer, name) for name in _MLP_NAMES if hasattr(layer, name)]
    if len(found) != 1:
        raise NotFast("the layer has no MLP under a known name")
    mlp: nn.Module = found[0]
    children = {n: c for n, c in mlp.named_children() if not _does_nothing(c)}
    merged = children.get(_MERGED_GATE_UP)
    gate_up = merged.linear if isinstance(merged, Merged) else children.get("gate_up_proj")
    act: Any = next((getattr(mlp, name) for name in _ACT_NAMES if hasattr(mlp, name)), None)
    known = {_MERGED_GATE_UP, "gate_proj", "up_proj", "gate_up_proj", "down_proj", *_ACT_NAMES}
    if gate_up is None or "down_proj" not in children or act is None or set(children) - known:
        return OpaqueMlp(mlp)
    return GatedMlp(gate_up, children["down_proj"], act)
