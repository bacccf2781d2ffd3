"""From logits to tokens, each row by its own request's wishes, all rows together.

A row's only randomness is one uniform number, a hash of the request's seed and the position of the
token. So a seeded request gets the same tokens whatever else is in the batch, on any device, and
also when it was preempted and computed again. The number picks a token by inverting the cumulated
probabilities of the candidates that top-k, top-p and min-p leave over.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

from engine.core.messages import SamplingParams
from engine.core.request import Request
from engine.core.scheduler import Sampled
from engine.worker.masks import Masks
from engine.worker.transfer import Arriving, to_device

_CPU_CANDIDATES = 512
"""On a CPU, sorting the likeliest few is tried before sorting the whole vocabulary (49,152 entries:
0.4 against 3 ms)."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One logits row and the request that it belongs to."""

    index: int
    request: Request

    @property
    def params(self) -> SamplingParams:
        return self.request.sampling


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a step sampled. tokens: [rows] int64 on the device; the rest is for the host."""

    tokens: Tensor
    arriving: Arriving
    raw: Tensor | None
    with_logprobs: Sequence[_Row]
    must_end: set[int]

    def collect(self) -> list[Sampled]:
        """Wait for the tokens; once more for the device if someone asked for logprobs."""
        ids: list[int] = self.arriving.wait().tolist()
        told = {} if self.raw is None else _logprobs(self.raw, self.with_logprobs, ids)
        return [
            Sampled(token, told.get(index), must_end=index in self.must_end)
            for index, token in enumerate(ids)
        ]


class Sampler:
    """seed: for requests that bring none; their id then makes each of them differ."""

    def __init__(self, seed: int, masks: Masks | None = None) -> None:
        self._seed = seed
        self._masks = masks

    def admit(self, sampling: SamplingParams) -> None:
        """Make a request's grammar ready. Raises GrammarError."""
        if self._masks:
            self._masks.admit(sampling)

    def sample(self, logits: Tensor, requests: Sequence[Request]) -> list[Sampled]:
        """One token for each row: `draw` and its results."""
        return self.draw(logits, requests).collect()

    def draw(self, logits: Tensor, requests: Sequence[Request]) -> Drawn:
        """Choose one token for each row. logits: [rows, vocab], changed in place if it is float32.

        Does not wait for the device, unless someone has penalties, a bias or a grammar.
        """
        rows = [_Row(index, request) for index, request in enumerate(requests)]
        logits = logits.float()
        with_logprobs = [row for row in rows if row.params.logprobs is not None]
        raw = logits[_indices(with_logprobs, logits)].log_softmax(-1) if with_logprobs else None
        for row in rows:
            _adjust(logits[row.index], row.request)
        must_end = self._keep_to_grammars(logits, rows)
        tokens = logits.argmax(-1)
        for random in _by_filtering(row for row in rows if row.params.temperature > 0):
            tokens[_indices(random, logits)] = self._draw(logits, random)
        return Drawn(tokens, Arriving(tokens), raw, with_logprobs, must_end)

    def _keep_to_grammars(self, logits: Tensor, rows: Sequence[_Row]) -> set[int]:
        """Mask the rows that have a grammar; gives those that cannot follow it any longer."""
        bound = [row for row in rows if row.params.grammar is not None]
        if not bound:
            return set()
        assert self._masks, f"{bound[0].request} has a grammar, this sampler no masks"
        return self._masks.apply(
            logits, [row.index for row in bound], [row.request for row in bound]
        )

    def _draw(self, logits: Tensor, rows: Sequence[_Row]) -> Tensor:
        """A random token for each of these rows: [rows] int64."""
        temperature = _column([row.params.temperature for row in rows], logits)
        scaled = logits[_indices(rows, logits)] / temperature
        weights, ids = _candidates(scaled, [row.params for row in rows])
        cumulated = weights.double().cumsum(-1)
        numbers = [self._uniform(row.request) for row in rows]
        chosen = _column(numbers, logits, torch.float64) * cumulated[:, -1:]
        picked = torch.searchsorted(cumulated, chosen, right=True)
        picked = picked.clamp_(max=weights.shape[1] - 1)
        return (picked if ids is None else ids.gather(1, picked))[:, 0]

    def _uniform(self, request: Request) -> float:
        """A number in [0, 1) that only the request's seed and the token's position decide."""
        seed = request.sampling.seed
        key = f"{seed}" if seed is not None else f"{self._seed}/{request.request_id}"
        digest = blake2b(f"{key}/{len(request.token_ids)}".encode(), digest_size=8).digest()
        return (int.from_bytes(digest, "big") >> 11) / 2**53


def _by_filtering(rows: Iterable[_Row]) -> list[list[_Row]]:
    """Rows with filters apart from those without: sorting changes which token a number picks, and
    a row's token must not depend on the wishes of others."""
    parts: tuple[list[_Row], list[_Row]] = ([], [])
    for row in rows:
        parts[_is_filtered(row.params)].append(row)
    return [part for part in parts if part]


def _is_filtered(params: SamplingParams) -> bool:
    return bool(params.top_k or params.top_p < 1 or params.min_p)


def _indices(rows: Sequence[_Row], like: Tensor) -> Tensor:
    return to_device([row.index for row in rows], torch.int64, like.device)


def _column(values: Sequence[float], like: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    return to_device(values, dtype, like.device)[:, None]


def _adjust(logits: Tensor, request: Request) -> None:
    """Apply one request's penalties and biases to its row [vocab], in place.

    Repetition counts prompt and answer, presence and frequency the answer alone.
    Sources: Keskar et al. 2019 (CTRL), section 4.1; OpenAI API reference, frequency penalty.
    """
    params = request.sampling
    if params.repetition_penalty != 1.0:
        ids = torch.tensor(sorted(set(request.token_ids)), device=logits.device)
        seen = logits[ids]
        penalty = params.repetition_penalty
        logits[ids] = torch.where(seen > 0, seen / penalty, seen * penalty)
    answer = request.token_ids[request.num_prompt :]
    if answer and (params.presence_penalty or params.frequency_penalty):
        ids, counts = torch.tensor(answer, device=logits.device).unique(return_counts=True)
        logits[ids] -= params.presence_penalty + params.frequency_penalty * counts
    if params.logit_bias:
        ids = torch.tensor([token for token, _ in params.logit_bias], device=logits.device)
        bias = torch.tensor([value for _, value in params.logit_bias], device=logits.device)
        logits.index_add_(0, ids, bias)


def _candidates(scaled: Tensor, params: Sequence[SamplingParams]) -> tuple[Tensor, Tensor | None]:
    """Weights [rows, candidates] of the tokens that may be drawn, and their ids. Either all rows
    are filtered or none is.

    No ids means that candidate i is token i. The filters apply in the order top-k, top-p, min-p,
    each to what the one before leaves; the weights need not sum to one.
    """
    vocab = scaled.shape[1]
    if not _is_filtered(params[0]):
        return scaled.softmax(-1), None
    top_k = _column([p.top_k or vocab for p in params], scaled)
    top_p = _column([p.top_p for p in params], scaled)
    min_p = _column([p.min_p for p in params], scaled)
    if scaled.is_cuda or vocab <= _CPU_CANDIDATES:
        return _filter(scaled, *scaled.sort(-1, descending=True), top_k, top_p, min_p)
    weights, ids = _filter(scaled, *scaled.topk(_CPU_CANDIDATES, -1), top_k, top_p, min_p)
    if (weights[:, -1] > 0).any():  # the last candidate is still in, so others may be missing
        return _filter(scaled, *scaled.sort(-1, descending=True), top_k, top_p, min_p)
    return weights, ids


def _filter(
    scaled: Tensor, logits: Tensor, ids: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor
) -> tuple[Tensor, Tensor]:
    """logits, ids: the likeliest of `scaled`, sorted; top_k, top_p, min_p: [rows, 1]."""
    ranks = torch.arange(logits.shape[1], device=logits.device)
    logits = logits.masked_fill(ranks >= top_k, float("-inf"))
    is_cut = top_k < scaled.shape[1]
    total = torch.where(is_cut, logits.logsumexp(-1, True), scaled.logsumexp(-1, True))
    weights = (logits - total).exp()
    before = weights.cumsum(-1) - weights
    keep = (before < top_p) & (weights >= min_p * weights[:, :1])
    keep[:, 0] = True
    return weights * keep, ids


def _logprobs(raw: Tensor, rows: Sequence[_Row], tokens: Sequence[int]) -> dict[int, list[Any]]:
    """By row index, `[logprob of the token, [[id, logprob], …]]`, before penalties and filters."""
    chosen = torch.tensor([tokens[row.index] for row in rows], device=raw.device)
    counts = [row.params.logprobs or 0 for row in rows]
    entries = logprob_entries(raw, chosen, counts)
    return {row.index: entry for row, entry in zip(rows, entries, strict=True)}


def logprob_entries(raw: Tensor, chosen: Tensor, counts: Sequence[int]) -> list[list[Any]]:
    """For each row `[logprob of the chosen token, [[id, logprob], …]]` with counts[row] pairs.

    raw: [rows, vocab], log probabilities. chosen: [rows] int64.
    """
    most = max(counts)
    top = raw.topk(most, -1)
    table = torch.cat((raw.gather(1, chosen[:, None]), top.values, top.indices.double()), 1)
    entries: list[list[Any]] = []
    for count, (own, *others) in zip(counts, table.tolist(), strict=True):
        pairs = zip(others[most:], others[:count], strict=False)
        entries.append([own, [[int(token), logprob] for token, logprob in pairs]])
    return entries
