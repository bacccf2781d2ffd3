"""The scheduler against a model that is only arithmetic: no torch, thousands of steps a second."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.core.blocks import BlockManager
from engine.core.messages import Output, SamplingParams
from engine.core.request import Request
from engine.core.scheduler import Batch, Limits, Sampled, Scheduler
from engine.errors import ContextLengthExceeded, RequestError

VOCAB = 100
LIMITS = Limits(64, max_num_seqs=4, max_batch_tokens=16, block_size=4, vocab_size=VOCAB)


def new_scheduler(num_blocks: int = 64, limits: Limits = LIMITS) -> Scheduler:
    return Scheduler(limits, BlockManager(num_blocks))


def add(
    scheduler: Scheduler,
    name: str,
    prompt: list[int],
    *,
    answer: int = 4,
    stop: tuple[int, ...] = (),
) -> Request:
    return scheduler.submit(
        name, prompt, SamplingParams(max_new_tokens=answer, stop_token_ids=stop)
    )


def next_token(tokens: list[int]) -> int:
    """The arithmetic model: the next token depends on every token before it."""
    return (sum(tokens) * 31 + len(tokens)) % 97


def compute(batch: Batch) -> list[Sampled]:
    return [Sampled(next_token(list(c.request.token_ids))) for c in batch if c.is_sampled]


def step(scheduler: Scheduler) -> list[Output]:
    batch = scheduler.schedule()
    check_batch(scheduler, batch)
    outputs = scheduler.commit(batch, compute(batch))
    scheduler.check_invariants()
    return outputs


def check_batch(scheduler: Scheduler, batch: Batch) -> None:
    limits = scheduler.limits
    assert sum(chunk.num_tokens for chunk in batch) <= limits.max_batch_tokens
    assert len(batch) <= limits.max_num_seqs
    for chunk in batch:
        assert chunk.num_tokens > 0
        assert chunk.start == chunk.request.num_computed
        assert len(chunk.request.block_ids) * limits.block_size >= chunk.end


def drain(scheduler: Scheduler, limit: int = 3000) -> dict[str, list[int]]:
    answers: dict[str, list[int]] = {}
    for _ in range(limit):
        if not scheduler.has_work:
            return answers
        for output in step(scheduler):
            answers.setdefault(output.request_id, []).extend(output.token_ids)
    raise AssertionError(f"still working after {limit} steps")


def expected(prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


def test_a_long_prompt_is_computed_in_chunks_of_the_budget() -> None:
    scheduler = new_scheduler()
    add(scheduler, "a", list(range(40)))
    assert [c.num_tokens for c in scheduler.schedule()] == [16]


def test_decoding_requests_go_before_prompts_in_the_same_step() -> None:
    scheduler = new_scheduler()
    add(scheduler, "a", [1, 2, 3])
    step(scheduler)
    add(scheduler, "b", list(range(40)))
    batch = scheduler.schedule()
    assert [(c.request.request_id, c.num_tokens) for c in batch] == [("a", 1), ("b", 15)]


def test_the_answer_ends_at_the_asked_length_and_says_so() -> None:
    scheduler = new_scheduler()
    add(scheduler, "a", [1, 2, 3], answer=2)
    assert [output.finish_reason for output in step(scheduler)] == [None]
    assert [output.finish_reason for output in step(scheduler)] == ["length"]
    assert not scheduler.has_work


def test_a_stop_token_ends_the_answer_and_is_reported() -> None:
    scheduler = new_scheduler()
    token = next_token([1, 2, 3])
    add(scheduler, "a", [1, 2, 3], stop=(token,))
    (output,) = step(scheduler)
    assert (output.token_ids, output.finish_reason) == ([token], "stop")


def test_an_answer_never_grows_beyond_the_engines_length() -> None:
    scheduler = new_scheduler()
    add(scheduler, "a", list(range(60)), answer=1000)
    assert len(drain(scheduler)["a"]) == 4


def test_a_prompt_that_leaves_no_room_is_refused_with_both_numbers() -> None:
    scheduler = new_scheduler()
    with pytest.raises(ContextLengthExceeded, match=r"64 tokens; .* 64 tokens"):
        add(scheduler, "a", list(range(64)))
    assert not scheduler.has_work


def test_a_request_larger_than_the_whole_cache_is_refused_with_both_numbers() -> None:
    scheduler = new_scheduler(num_blocks=6)
    with pytest.raises(ContextLengthExceeded, match=r"30 tokens; .* 20 tokens"):
        add(scheduler, "a", list(range(10)), answer=20)


def test_a_request_id_in_use_is_refused() -> None:
    scheduler = new_scheduler()
    add(scheduler, "a", [1])
    with pytest.raises(RequestError, match="already in use"):
        add(scheduler, "a", [1])


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(RequestError, match="no tokens"):
        add(new_scheduler(), "a", [])


@pytest.mark.parametrize("token", [-1, VOCAB, 2**40])
def test_a_token_that_the_model_does_not_have_is_refused(token: int) -> None:
    with pytest.raises(RequestError, match=r"is not a token id; this model has 0 … 99"):
        add(new_scheduler(), "a", [1, token, 2])


def test_a_second_request_reuses_the_blocks_of_the_same_beginning() -> None:
    scheduler = new_scheduler()
    prompt = list(range(13))
    add(scheduler, "a", prompt)
    first = drain(scheduler)
    request = add(scheduler, "b", prompt)
    (chunk,) = scheduler.schedule()
    assert (chunk.start, request.num_cached) == (12, 12)
    (output,) = scheduler.commit([chunk], compute([chunk]))
    assert output.cached_tokens == 12
    assert drain(scheduler)["b"] == first["a"][1:]


def test_a_prompt_of_whole_blocks_leaves_its_last_block_to_compute() -> None:
    scheduler = new_scheduler()
    add(scheduler, "a", list(range(8)))
    drain(scheduler)
    add(scheduler, "b", list(range(8)))
    (chunk,) = scheduler.schedule()
    assert (chunk.start, chunk.end) == (4, 8)


def test_without_the_prefix_cache_nothing_is_reused() -> None:
    limits = Limits(64, 4, 16, 4, VOCAB, enable_prefix_cache=False)
    scheduler = new_scheduler(limits=limits)
    for name in "ab":
        request = add(scheduler, name, list(range(13)))
        drain(scheduler)
        assert request.num_cached == 0


def test_when_blocks_run_out_the_newest_yields_and_still_answers_the_same() -> None:
    scheduler = new_scheduler(num_blocks=10)
    prompts = {name: [ord(name), 1, 2] for name in "abc"}
    for name, prompt in prompts.items():
        add(scheduler, name, prompt, answer=20)
    answers = drain(scheduler)
    assert scheduler.counters.preemptions > 0
    assert answers == {name: expected(prompt, 20) for name, prompt in prompts.items()}
    assert scheduler.counters.prompt_tokens == 9


def test_an_aborted_request_gives_its_blocks_back() -> None:
    scheduler = new_scheduler()
    add(scheduler, "a", list(range(30)))
    step(scheduler)
    assert scheduler.abort("a")
    assert not scheduler.abort("a")
    assert scheduler.stats().blocks_used == 0
    scheduler.check_invariants()


def test_a_failed_step_drops_its_requests_and_keeps_the_others() -> None:
    scheduler = new_scheduler(limits=Limits(64, 1, 16, 4, VOCAB))
    add(scheduler, "a", [1, 2])
    add(scheduler, "b", [3, 4])
    failed = scheduler.fail(scheduler.schedule())
    assert [request.request_id for request in failed] == ["a"]
    assert drain(scheduler) == {"b": expected([3, 4], 4)}


events = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 40), st.integers(1, 30), st.integers(0, 2)),
        st.tuples(st.just("abort"), st.integers(0, 30)),
        st.tuples(st.just("fail")),
        st.tuples(st.just("step"), st.integers(1, 6)),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(
    events=events,
    num_blocks=st.integers(5, 40),
    block_size=st.sampled_from([1, 3, 4, 16]),
    budget=st.integers(4, 24),
    prefix=st.booleans(),
)
def test_whatever_arrives_no_block_is_lost_and_every_request_ends_as_if_alone(
    events: list[tuple[object, ...]], num_blocks: int, block_size: int, budget: int, prefix: bool
) -> None:
    scheduler = new_scheduler(num_blocks, Limits(64, 4, budget, block_size, VOCAB, prefix))
    asked: dict[str, tuple[list[int], int]] = {}
    gone: set[str] = set()
    answers: dict[str, list[int]] = {}
    for event in [*events, ("end",)]:
        match event:
            case ("add", int(length), int(answer), int(kind)):
                name = str(len(asked) + len(gone))
                prompt = [(kind * 7 + i) % 50 for i in range(length)]
                try:
                    add(scheduler, name, prompt, answer=answer)
                except ContextLengthExceeded:
                    gone.add(name)
                    continue
                asked[name] = (prompt, min(answer, 64 - length))
            case ("abort", int(number)):
                if scheduler.abort(str(number)):
                    gone.add(str(number))
            case ("fail",) if scheduler.has_work:
                gone |= {r.request_id for r in scheduler.fail(scheduler.schedule())}
            case ("step", int(count)):
                for _ in range(count if scheduler.has_work else 0):
                    if scheduler.has_work:
                        collect(answers, step(scheduler))
        scheduler.check_invariants()
    for name, tokens in drain(scheduler).items():
        answers.setdefault(name, []).extend(tokens)
    for name in asked.keys() - gone:
        assert answers[name] == expected(*asked[name]), name
    assert scheduler.stats().blocks_used == 0


def collect(answers: dict[str, list[int]], outputs: list[Output]) -> None:
    for output in outputs:
        answers.setdefault(output.request_id, []).extend(output.token_ids)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=12), st.integers(17, 40))
def test_first_tokens_come_in_the_order_of_arrival_when_one_runs_at_a_time(
    lengths: list[int], num_blocks: int
) -> None:
    scheduler = new_scheduler(num_blocks, Limits(64, 1, 16, 4, VOCAB))
    for number, length in enumerate(lengths):
        add(scheduler, str(number), [number] * length, answer=3)
    assert list(drain(scheduler)) == [str(number) for number in range(len(lengths))]
