"""Tensor parallelism from the model's own plan: each rank holds a part of every large weight.

transformers names a style for each projection (`tp_plan`), which is taken as data:

    colwise                 y_r = x W_r          this rank's output features (heads, MLP columns)
    rowwise                 y = Σ_r x_r W_r      this rank's input features, then one all-reduce
    rowwise_split_input     the same, but x is whole and cut here first
    colwise_gather_output   y = [x W_0, x W_1 …] each computes its columns, all gather them
    moe_tp_experts          every expert cut like an MLP (packed_colwise, rowwise), one all-reduce

`shard` cuts the model on the meta device and tells which slice of a stored tensor is this rank's,
`connect` puts the communication in, once the weights are there. Embeddings are whole on every rank;
the head is cut over the vocabulary, the last rank's part being shorter where it does not divide.
Where there are fewer KV heads than ranks, ranks share them. Source: Shoeybi et al. 2019 (Megatron).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from engine.errors import ConfigError, UnsupportedModel

_IGNORED = {"embedding_rowwise", "replicated_with_grad_allreduce"}
"""Whole on every rank: embeddings, and norms over single heads."""

_EXPERTS = "moe_tp_experts"
_EXPERT_PARTS = {"packed_colwise", "rowwise", "colwise"}
_EXPERT_ROWS = re.compile(r"\.experts\.\d+\.(gate_proj|up_proj|w1|w3)\.weight$")
_EXPERT_COLUMNS = re.compile(r"\.experts\.\d+\.(down_proj|w2)\.weight$")
_LAYER_NUMBER = re.compile(r"\.\d+\.")


@dataclass(frozen=True, slots=True)
class Rank:
    """Which of how many processes that compute one model together."""

    index: int = 0
    world_size: int = 1


WHOLE = Rank()
"""The only one: nothing is cut."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Positions [start, stop) of one dimension of a stored tensor."""

    dim: int
    start: int
    stop: int

    def __call__(self, tensor: Any) -> Tensor:
        return tensor[:, self.start : self.stop] if self.dim else tensor[self.start : self.stop]


@dataclass(frozen=True, slots=True)
class _CutSlice:
    """A tensor of a safetensors file of which only this rank's part is read."""

    stored: Any
    cut: Cut

    def __getitem__(self, _: Any) -> Tensor:
        return self.cut(self.stored)


@dataclass(frozen=True, slots=True)
class Sharding:
    """What `shard` did. cuts: by the tensor's name. styles: by the module's name, only those that
    communicate. widths: whole output features by the module's name."""

    rank: Rank
    cuts: dict[str, Cut] = field(default_factory=dict)
    styles: dict[str, str] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)
    expert_width: int = 0

    def part(self, name: str, stored: Any) -> Any:
        """What the loader reads instead of a stored tensor."""
        cut = self.cuts.get(name) or self._expert_cut(name)
        return _CutSlice(stored, cut) if cut else stored

    def _expert_cut(self, name: str) -> Cut | None:
        if not self.expert_width:
            return None
        start = self.rank.index * self.expert_width
        if _EXPERT_ROWS.search(name):
            return Cut(0, start, start + self.expert_width)
        if _EXPERT_COLUMNS.search(name):
            return Cut(1, start, start + self.expert_width)
        return None


# --- cutting ------------------------------------------------------------------------------------


def shard(model: PreTrainedModel, rank: Rank, stored: Iterable[str] = ()) -> Sharding:
    """Cut a model on the meta device to this rank's part.

    stored: names of the checkpoint's tensors. Raises UnsupportedModel for a model without a plan or
    with a style that is not known here, ConfigError where the sizes do not divide.
    """
    if rank.world_size == 1:
        return Sharding(rank)
    cutter = _Cutter(model, rank)
    for name, module in list(model.named_modules()):
        style = cutter.plan.get(_LAYER_NUMBER.sub(".*.", name))
        if style:
            cutter.cut(name, module, style)
    return cutter.finish(set(stored))


class _Cutter:
    """Walks over the modules of one model that the plan names."""

    def __init__(self, model: PreTrainedModel, rank: Rank) -> None:
        self.plan: dict[str, str] = dict(model.tp_plan)
        self._name = model.config.model_type
        self._config: Any = model.config.get_text_config()
        self._tied = set(getattr(model, "all_tied_weights_keys", None) or ())
        self._sharding = Sharding(rank)
        self._rank = rank
        self._expert_width = 0

    def cut(self, name: str, module: nn.Module, style: str) -> None:
        if style in _IGNORED:
            return
        if style == _EXPERTS:
            self._cut_experts(name, module)
        elif not isinstance(module, nn.Linear):
            raise self._unsupported(f"{name} is a {type(module).__name__}, planned as {style}")
        elif style == "colwise":
            self._cut_rows(name, module, *self._rows(name, module.out_features))
        elif style in ("rowwise", "rowwise_split_input"):
            self._cut_columns(name, module, style)
        elif style == "colwise_gather_output":
            self._cut_gathered(name, module)
        else:
            raise self._unsupported(f"the style {style} of {name} is not known")

    def finish(self, stored: set[str]) -> Sharding:
        done = self._sharding
        if not any(_LAYER_NUMBER.search(name) for name in done.styles):
            raise self._unsupported("transformers has no plan for its layers")
        missing = sorted(done.cuts.keys() - stored) if stored else []
        if missing:
            raise self._unsupported(f"its checkpoint stores {missing[0]} under another name")
        return Sharding(done.rank, done.cuts, done.styles, done.widths, self._expert_width)

    def _rows(self, name: str, out_features: int) -> tuple[int, int]:
        """This rank's output features; whole heads, where they are heads."""
        leaf = name.rsplit(".", 1)[-1]
        heads: int = self._config.num_attention_heads
        kv_heads: int = getattr(self._config, "num_key_value_heads", None) or heads
        if leaf in ("k_proj", "v_proj") and kv_heads < self._rank.world_size:
            self._check(self._rank.world_size, kv_heads, f"ranks that share {kv_heads} KV heads")
            per_head = out_features // kv_heads
            first = self._rank.index * kv_heads // self._rank.world_size
            return first * per_head, (first + 1) * per_head
        if leaf in ("k_proj", "v_proj"):
            self._check(kv_heads, self._rank.world_size, f"{kv_heads} KV heads")
        if leaf == "q_proj":
            self._check(heads, self._rank.world_size, f"{heads} attention heads")
        return self._even(name, out_features)

    def _even(self, name: str, features: int) -> tuple[int, int]:
        self._check(features, self._rank.world_size, f"{features} features at {name}")
        size = features // self._rank.world_size
        return self._rank.index * size, (self._rank.index + 1) * size

    def _cut_rows(self, name: str, linear: nn.Linear, start: int, stop: int) -> None:
        cut = Cut(0, start, stop)
        _resize(linear, "weight", (stop - start, linear.in_features))
        self._sharding.cuts[f"{name}.weight"] = cut
        if linear.bias is not None:
            _resize(linear, "bias", (stop - start,))
            self._sharding.cuts[f"{name}.bias"] = cut
        linear.out_features = stop - start

    def _cut_columns(self, name: str, linear: nn.Linear, style: str) -> None:
        start, stop = self._even(name, linear.in_features)
        _resize(linear, "weight", (linear.out_features, stop - start))
        self._sharding.cuts[f"{name}.weight"] = Cut(1, start, stop)
        self._sharding.styles[name] = style
        linear.in_features = stop - start

    def _cut_gathered(self, name: str, linear: nn.Linear) -> None:
        """A tied head stays whole: `connect` computes with this rank's rows of the embedding."""
        self._sharding.widths[name] = linear.out_features
        self._sharding.styles[name] = "colwise_gather_output"
        if f"{name}.weight" not in self._tied:
            self._cut_rows(name, linear, *gathered_rows(linear.out_features, self._rank))

    def _cut_experts(self, name: str, experts: nn.Module) -> None:
        """gate_up_proj: [experts, 2 · width, hidden], down_proj: [experts, hidden, width]."""
        shapes = {part: parameter.shape for part, parameter in experts.named_parameters()}
        if set(shapes) != {"gate_up_proj", "down_proj"} or len(shapes["down_proj"]) != 3:
            raise self._unsupported(f"{name} holds {', '.join(sorted(shapes))}")
        num_experts, hidden, width = shapes["down_proj"]
        if shapes["gate_up_proj"] != (num_experts, 2 * width, hidden):
            raise self._unsupported(f"{name} is laid out in another way")
        start, stop = self._even(name, width)
        _resize(experts, "gate_up_proj", (num_experts, 2 * (stop - start), hidden))
        _resize(experts, "down_proj", (num_experts, hidden, stop - start))
        self._sharding.styles[name] = _EXPERTS
        self._expert_width = stop - start

    def _check(self, number: int, divisor: int, what: str) -> None:
        if number % divisor:
            size = self._rank.world_size
            raise ConfigError(
                f"--tensor-parallel-size {size} does not divide {self._name}: it has {what}.",
                fix="Choose a smaller size, or --replicas instead.",
            )

    def _unsupported(self, why: str) -> UnsupportedModel:
        return UnsupportedModel(
            f"This engine cannot divide {self._name} among ranks: {why}.",
            fix="Choose --tensor-parallel-size 1, or deploy it with the vLLM runtime.",
        )


def gathered_rows(num_rows: int, rank: Rank) -> tuple[int, int]:
    """Equal parts, the last ones shorter or empty where they do not divide."""
    size = -(-num_rows // rank.world_size)
    start = min(rank.index * size, num_rows)
    return start, min(start + size, num_rows)


def _resize(module: nn.Module, name: str, shape: tuple[int, ...]) -> None:
    old: Tensor = getattr(module, name)
    assert old.is_meta, f"{name} has its values already"
    new = torch.empty(shape, dtype=old.dtype, device="meta")
    setattr(module, name, nn.Parameter(new, requires_grad=False))


# --- communicating ------------------------------------------------------------------------------


class RowParallel(nn.Module):
    """y = Σ over ranks of x_r W_r, then the bias, once. cut: where x is whole, this rank's part."""

    def __init__(self, linear: Any, cut: Cut | None) -> None:
        super().__init__()
        self.linear = linear
        self.bias: Tensor | None = linear.bias
        linear.bias = None
        self._cut = cut

    def forward(self, x: Tensor) -> Tensor:
        if self._cut:
            x = x[..., self._cut.start : self._cut.stop]
        y = self.linear(x)
        dist.all_reduce(y)
        return y if self.bias is None else y + self.bias


class GatherColumns(nn.Module):
    """The whole output on every rank. width: its features; the last ranks' parts are padded."""

    def __init__(self, linear: nn.Module, width: int, world_size: int) -> None:
        super().__init__()
        self.linear = linear
        self._width = width
        self._part = -(-width // world_size)
        self._world_size = world_size

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        y = F.pad(y, (0, self._part - y.shape[-1])).contiguous()
        parts = [torch.empty_like(y) for _ in range(self._world_size)]
        dist.all_gather(parts, y)
        return torch.cat(parts, -1)[..., : self._width]


def connect(model: nn.Module, sharding: Sharding) -> int:
    """Put the communication between ranks in; returns how many modules communicate."""
    for name, style in sharding.styles.items():
        module: Any = model.get_submodule(name)
        if style == _EXPERTS:
            module.register_forward_hook(_reduce_output)
            continue
        if style == "colwise_gather_output":
            replacement = _gather(module, sharding, sharding.widths[name])
        else:
            cut = sharding.cuts[f"{name}.weight"] if style == "rowwise_split_input" else None
            replacement = RowParallel(module, cut)
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, replacement)
    return len(sharding.styles)


def _gather(module: Any, sharding: Sharding, width: int) -> nn.Module:
    if module.out_features == width and type(module) is not nn.Linear:
        return module  # a tied head that was quantized: whole on every rank
    if module.out_features == width:
        module = _TiedRows(module, *gathered_rows(width, sharding.rank))
    return GatherColumns(module, width, sharding.rank.world_size)


class _TiedRows(nn.Module):
    """This rank's rows of a head that is the embedding; in a tuple, so that torch does not count
    them as weights of their own."""

    def __init__(self, head: nn.Linear, start: int, stop: int) -> None:
        super().__init__()
        bias = None if head.bias is None else head.bias[start:stop]
        self._rows = (head.weight[start:stop], bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, *self._rows)


def _reduce_output(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
    dist.all_reduce(output)
    return output


def join(rank: Rank, meeting_file: Path, device: torch.device) -> None:
    """Meet the other ranks at a file and open the connections: NCCL on GPUs, gloo on the CPU."""
    store = dist.FileStore(str(meeting_file), rank.world_size)  # pyright: ignore[reportPrivateImportUsage]  # public, only not listed
    is_gpu = device.type == "cuda"
    dist.init_process_group(
        "nccl" if is_gpu else "gloo",
        store=store,
        rank=rank.index,
        world_size=rank.world_size,
        device_id=device if is_gpu else None,
    )


def device_map(asked: str, rank: Rank) -> str:
    """The rank's own device: its number among the visible GPUs, unless the CPU is asked for."""
    wants_cpu = asked == "cpu" or (asked == "auto" and not torch.cuda.is_available())
    return asked if wants_cpu or rank.world_size == 1 else f"cuda:{rank.index}"


def smallest(number: int, device: torch.device) -> int:
    """The least of all ranks' numbers; the number itself for a rank alone."""
    return _reduce(number, device, dist.ReduceOp.MIN)


def total(number: int, device: torch.device) -> int:
    return _reduce(number, device, dist.ReduceOp.SUM)


def _reduce(number: int, device: torch.device, operation: Any) -> int:
    if not dist.is_initialized():
        return number
    value = torch.tensor(number, dtype=torch.int64, device=device)
    dist.all_reduce(value, operation)
    return int(value)
