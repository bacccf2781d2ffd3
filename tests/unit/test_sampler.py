"""Sampling: every option against its definition, and seeds that do not look at their neighbours."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.core.messages import SamplingParams
from engine.core.request import Request
from engine.worker.sampler import Sampler

VOCAB = 20


def request(name: str = "r", *, answer: tuple[int, ...] = (), **options: Any) -> Request:
    sampling = SamplingParams(max_new_tokens=1000, **options)
    made = Request(name, [1, 2, 3], sampling, max_length=4096, block_size=16)
    made.token_ids.extend(answer)
    return made


def row(*values: float) -> Tensor:
    return torch.tensor(values)[None]


def draw(logits: Tensor, count: int = 4000, **options: Any) -> Counter[int]:
    """How often each token comes when one row is drawn `count` times."""
    requests = [request(seed=number, **options) for number in range(count)]
    tokens = Sampler(0).sample(logits.expand(count, -1).clone(), requests)
    return Counter(s.token_id for s in tokens if s.token_id is not None)


def random_logits(rows: int, vocab: int = VOCAB) -> Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(0)) * 2


def test_temperature_zero_takes_the_likeliest() -> None:
    logits = random_logits(5)
    tokens = Sampler(0).sample(logits.clone(), [request(temperature=0.0)] * 5)
    assert [t.token_id for t in tokens] == logits.argmax(-1).tolist()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_their_probabilities_say(temperature: float) -> None:
    logits = random_logits(1)
    expected = (logits[0] / temperature).softmax(-1) * 4000
    seen = draw(logits, temperature=temperature)
    chi_square = sum((seen[i] - e) ** 2 / e for i, e in enumerate(expected.tolist()) if e > 5)
    assert chi_square < 44  # 99.9 % quantile for 19 degrees of freedom


@pytest.mark.parametrize("vocab", [20, 2000])
def test_top_k_leaves_the_k_likeliest(vocab: int) -> None:
    logits = random_logits(1, vocab)
    assert set(draw(logits, top_k=3)) == set(logits[0].topk(3).indices.tolist())


def test_top_p_leaves_the_smallest_set_that_reaches_it() -> None:
    logits = row(0.5, 0.3, 0.15, 0.05).log()
    assert set(draw(logits, top_p=0.49)) == {0}
    assert set(draw(logits, top_p=0.6)) == {0, 1}
    assert set(draw(logits, top_p=0.94)) == {0, 1, 2}


def test_top_p_counts_within_what_top_k_left() -> None:
    logits = row(0.4, 0.3, 0.2, 0.1).log()
    assert set(draw(logits, top_k=2, top_p=0.57)) == {0}
    assert set(draw(logits, top_k=2, top_p=0.58)) == {0, 1}


def test_min_p_leaves_what_is_likely_enough_beside_the_likeliest() -> None:
    logits = row(0.5, 0.3, 0.15, 0.05).log()
    assert set(draw(logits, min_p=0.25)) == {0, 1, 2}


def test_a_flat_distribution_over_a_large_vocabulary_is_not_cut_to_the_candidates() -> None:
    seen = draw(torch.zeros(1, 3000), top_p=0.999)
    assert max(seen) > 2500


def test_presence_and_frequency_penalties_count_the_answer_alone() -> None:
    logits = torch.zeros(1, VOCAB)
    made = request(answer=(5, 5, 6), presence_penalty=0.5, frequency_penalty=0.25, logprobs=0)
    changed = logits.clone()
    Sampler(0).sample(changed, [made])
    assert changed[0, 5].item() == -1.0
    assert changed[0, 6].item() == -0.75
    assert changed[0, 1].item() == 0.0


def test_the_repetition_penalty_divides_positive_and_multiplies_negative_scores() -> None:
    logits = torch.ones(1, VOCAB)
    logits[0, 2] = -1.0
    Sampler(0).sample(logits, [request(answer=(7,), repetition_penalty=2.0)])
    assert [logits[0, i].item() for i in (1, 2, 7, 8)] == [0.5, -2.0, 0.5, 1.0]


def test_logit_bias_bans_and_forces_tokens() -> None:
    logits = random_logits(1)
    forced = request(temperature=0.0, logit_bias=((4, 100.0),))
    assert Sampler(0).sample(logits.clone(), [forced])[0].token_id == 4
    assert 4 not in draw(torch.zeros(1, 5), logit_bias=((4, -100.0),))


def test_a_seeded_request_gets_the_same_token_whatever_else_is_in_the_batch() -> None:
    logits = random_logits(6)
    alone = Sampler(0).sample(logits[2:3].clone(), [request("x", seed=7)])
    others = [request(f"o{i}", temperature=0.3 * i, top_k=i) for i in range(6)]
    others[2] = request("y", seed=7)
    together = Sampler(99).sample(logits.clone(), others)
    assert together[2] == alone[0]


def test_a_seeds_next_token_is_drawn_with_another_number() -> None:
    logits = torch.zeros(1, 1000)
    tokens = {
        Sampler(0).sample(logits.clone(), [request(seed=1, answer=(0,) * n)])[0].token_id
        for n in range(10)
    }
    assert len(tokens) > 5


def test_requests_without_a_seed_differ_by_their_id_and_by_the_engines_seed() -> None:
    logits = torch.zeros(1, 10_000)

    def token(name: str, seed: int) -> int | None:
        return Sampler(seed).sample(logits.clone(), [request(name)])[0].token_id

    assert token("a", 0) == token("a", 0)
    assert len({token("a", 0), token("b", 0), token("a", 1)}) == 3


def test_logprobs_are_those_of_the_model_before_any_option() -> None:
    logits = random_logits(3)
    plain = logits.log_softmax(-1)
    requests = [
        request(temperature=0.0, logprobs=2, logit_bias=((4, 100.0),)),
        request(),
        request(temperature=0.0, logprobs=0),
    ]
    first, second, third = Sampler(0).sample(logits.clone(), requests)
    assert second.logprobs is None
    assert first.logprobs is not None
    own, top = first.logprobs
    assert math.isclose(own, plain[0, 4].item(), abs_tol=1e-5)
    assert [token for token, _ in top] == plain[0].topk(2).indices.tolist()
    assert math.isclose(top[0][1], plain[0].max().item(), abs_tol=1e-5)
    assert third.logprobs is not None
    assert third.logprobs[1] == []


def test_the_largest_number_never_points_behind_the_last_candidate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Sampler, "_uniform", lambda *_: 1 - 2**-53)
    logits = random_logits(1)
    assert Sampler(0).sample(logits, [request()])[0].token_id in range(VOCAB)
    kept = Sampler(0).sample(row(0.5, 0.3, 0.15, 0.05).log(), [request(top_p=0.6)])
    assert kept[0].token_id in (0, 1)


def test_a_seeded_token_is_the_same_beside_requests_that_filter() -> None:
    logits = torch.randn(2, VOCAB, generator=torch.Generator().manual_seed(3))
    for seed in range(20):
        plain = request("plain", temperature=1.0, seed=seed)
        filtered = request("filtered", temperature=1.0, top_p=0.9, seed=seed)
        alone = Sampler(0).sample(logits[:1].clone(), [plain])
        together = Sampler(0).sample(logits.clone(), [plain, filtered])
        assert together[0] == alone[0]
