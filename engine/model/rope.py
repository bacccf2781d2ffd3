"""Rotary positions in the forms that transformers' models use, as one product with tables.

Each form pairs the dimensions of a head differently and is given cosines laid out differently:

    half         pairs (i, i + d/2), cos for all d           Llama, Qwen, Mistral, Gemma …
    half_short   the same pairs, cos for d/2                 gpt-oss
    interleaved  pairs (2i, 2i + 1), the first d/2 of cos    GLM, ERNIE
    paired       pairs (2i, 2i + 1), cos for all d in pairs  Cohere
    none         no rotation in this layer

    rotated = x · cos + swapped(x) · sin       swapped exchanges the two of each pair; the sign of
                                               the first is already in sin

Where only the first d dimensions of a head rotate, the tables are 1 and 0 for the others. Tables
are made once a step, not once a layer. Source: Su et al., RoFormer, 2021, section 3.2.
"""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor

Given = tuple[Tensor, Tensor]
"""cos and sin as the model hands them to its layers: [1, tokens, dim]."""


class Form(StrEnum):
    HALF = "half"
    HALF_SHORT = "half_short"
    INTERLEAVED = "interleaved"
    PAIRED = "paired"
    NONE = "none"


class Rotary:
    """Rotates heads of `head_dim` dimensions; one for all layers that are given the same tables.

    Remembers the tables of the step it saw last, by the tensor that they were made from.
    """

    def __init__(self, form: Form, head_dim: int) -> None:
        self.form = form
        self.head_dim = head_dim
        self._made_from: Tensor | None = None
        self._tables: Given | None = None
        self._dim = head_dim

    def __call__(self, x: Tensor, given: Given | None) -> Tensor:
        """x: [tokens, heads, head_dim] → the same shape, rotated."""
        if self.form is Form.NONE:
            return x
        assert given is not None, "a rotating layer was given no positions"
        if self._made_from is not given[0] or self._tables is None:
            self._tables = self._make_tables(*given)
            self._made_from = given[0]
        return rotate(x, *self._tables, self._dim, self.form)

    def _make_tables(self, cos: Tensor, sin: Tensor) -> Given:
        """cos, signed sin: [tokens, 1, head_dim]."""
        cos, sin = cos[0], sin[0]
        if self.form is Form.INTERLEAVED:
            half = cos.shape[-1] // 2
            cos, sin = (t[..., :half].repeat_interleave(2, -1) for t in (cos, sin))
        elif self.form is Form.HALF_SHORT:
            cos, sin = (torch.cat((t, t), -1) for t in (cos, sin))
        dim = self._dim = cos.shape[-1]
        sign = torch.ones(dim, dtype=sin.dtype, device=sin.device)
        sign[_firsts(dim, self.form)] = -1
        rest = (*cos.shape[:-1], self.head_dim - dim)
        cos = torch.cat((cos, cos.new_ones(rest)), -1)
        sin = torch.cat((sin * sign, sin.new_zeros(rest)), -1)
        return cos[:, None], sin[:, None]


def rotate(x: Tensor, cos: Tensor, sin: Tensor, dim: int, form: Form) -> Tensor:
    """x: [tokens, heads, head_dim]; cos, sin: [tokens, 1, head_dim]; the first `dim` rotate."""
    return torch.addcmul(x * cos, _swapped(x, dim, form), sin)


def _firsts(dim: int, form: Form) -> slice:
    """Where the first of each pair lies."""
    return slice(0, dim // 2) if form in (Form.HALF, Form.HALF_SHORT) else slice(0, dim, 2)


def _swapped(x: Tensor, dim: int, form: Form) -> Tensor:
    head_dim = x.shape[-1]
    if form in (Form.HALF, Form.HALF_SHORT):
        if dim == head_dim:
            return x.roll(dim // 2, -1)
        half = dim // 2
        return torch.cat((x[..., half:dim], x[..., :half], x[..., dim:]), -1)
    pairs = x[..., :dim].unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return pairs if dim == head_dim else torch.cat((pairs, x[..., dim:]), -1)
