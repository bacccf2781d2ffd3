"""What a change to a model costs: how well it predicts a text, and how often it says the same.

The text is shipped with the package, English and Chinese, written for this purpose. Perplexities
compare variants of one model on this text; they say nothing beside those of other papers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor

LANGUAGES = ("en", "zh")
WINDOW_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Predictions:
    """For each token of the text but each window's first. nll: [tokens] −log of its probability,
    in nats. top: [tokens] the token that was thought likeliest."""

    nll: Tensor
    top: Tensor

    @property
    def perplexity(self) -> float:
        return math.exp(self.nll.mean().item())

    def agreement(self, other: Predictions) -> float:
        """Share of the places at which both think the same token likeliest."""
        return (self.top == other.top).float().mean().item()


def text(language: str) -> str:
    """The shipped text in one of LANGUAGES."""
    return files("engine.quant").joinpath("texts", f"{language}.txt").read_text(encoding="utf-8")


def windows(ids: Sequence[int], size: int = WINDOW_TOKENS) -> list[list[int]]:
    """The ids in rows of `size` tokens; a last row of one token has nothing to predict."""
    rows = [list(ids[start : start + size]) for start in range(0, len(ids), size)]
    return [row for row in rows if len(row) > 1]


@torch.inference_mode()
def predict(model: Any, rows: Iterable[Sequence[int]]) -> Predictions:
    """What a transformers model thinks of each next token. rows: token ids of the windows."""
    nll, top = [], []
    for row in rows:
        ids = torch.tensor([list(row)], device=model.device)
        log_probs = model(input_ids=ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
        nll.append(-log_probs.gather(1, ids[0, 1:, None])[:, 0].cpu())
        top.append(log_probs.argmax(-1).cpu())
    return Predictions(torch.cat(nll), torch.cat(top))
