"""Who waits, who is refused, who runs out of time and who goes first: the scheduler on a clock that
the tests turn."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.core.blocks import BlockManager
from engine.core.line import AGEING_S
from engine.core.messages import Output, SamplingParams
from engine.core.request import Request
from engine.core.scheduler import Batch, Limits, Sampled, Scheduler
from engine.core.turnover import LONGEST_S
from engine.errors import EngineBusy
from tests.unit.test_scheduler import VOCAB, check_batch, compute, expected, next_token


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class World:
    """A scheduler, its clock, and the arithmetic model; each step takes a second."""

    def __init__(
        self,
        *,
        num_blocks: int = 64,
        max_num_seqs: int = 1,
        max_queue: int = 1000,
        batch_wait_s: float = 0.0,
        budget: int = 16,
    ) -> None:
        self.clock = Clock()
        limits = Limits(
            64, max_num_seqs, budget, 4, VOCAB, max_queue=max_queue, batch_wait_s=batch_wait_s
        )
        self.scheduler = Scheduler(limits, BlockManager(num_blocks), self.clock)
        self.answers: dict[str, list[int]] = {}

    def add(
        self,
        name: str,
        *,
        length: int = 3,
        answer: int = 4,
        priority: int = 0,
        timeout_s: float | None = None,
    ) -> Request:
        sampling = SamplingParams(max_new_tokens=answer)
        prompt = [len(name), *range(length - 1)]
        return self.scheduler.submit(name, prompt, sampling, priority=priority, timeout_s=timeout_s)

    def step(self) -> list[Output]:
        batch = self.scheduler.schedule()
        check_batch(self.scheduler, batch)
        outputs = self.scheduler.commit(batch, compute(batch))
        self.scheduler.check_invariants()
        self.clock.now += 1
        self.take(outputs)
        return outputs

    def take(self, outputs: list[Output]) -> None:
        for output in outputs:
            self.answers.setdefault(output.request_id, []).extend(output.token_ids)

    def drain(self) -> list[str]:
        """Run until idle; the names in the order of their first tokens."""
        for _ in range(5000):
            if not self.scheduler.has_work:
                return list(self.answers)
            self.step()
        raise AssertionError("still working after 5000 steps")


# --- priorities -----------------------------------------------------------------------------------


def test_lower_priorities_start_first_and_equal_ones_in_the_order_of_arrival() -> None:
    world = World()
    for name, priority in (("a", 1), ("b", 0), ("c", 1), ("d", -1), ("e", 0)):
        world.add(name, priority=priority)
    assert world.drain() == ["d", "b", "e", "a", "c"]


def test_a_request_that_waited_long_enough_is_not_overtaken_any_more() -> None:
    world = World()
    world.add("running", answer=50)
    world.step()
    world.add("patient", priority=1)
    world.clock.now += AGEING_S - 0.5
    world.add("in time", priority=0)
    world.clock.now += 1
    world.add("too late", priority=0)
    assert world.drain() == ["running", "in time", "patient", "too late"]


def test_an_endless_flow_of_urgent_requests_starves_nobody() -> None:
    world = World()
    world.add("humble", priority=3, answer=1)
    for number in range(200):
        world.add(f"urgent {number}", priority=0, answer=2)
        world.step()
        if "humble" in world.answers:
            break
    assert world.clock.now - 1000 <= 3 * AGEING_S * 2 + 5


def test_when_blocks_run_out_the_last_by_priority_yields() -> None:
    world = World(num_blocks=10, max_num_seqs=2)
    world.add("x", length=3, answer=30, priority=5)
    world.step()
    urgent = world.add("yy", length=3, answer=30, priority=0)
    world.drain()
    assert world.scheduler.counters.preemptions > 0
    assert len(world.answers["yy"]) == len(world.answers["x"]) == 30
    assert urgent.started_at == 1001.0


# --- the limited line -----------------------------------------------------------------------------


def test_beyond_the_line_a_request_is_refused_with_the_numbers_and_a_time() -> None:
    world = World(max_num_seqs=2, max_queue=3)
    for name in "abcde":
        world.add(name)
    with pytest.raises(EngineBusy, match=r"runs 2 at once and lets 3 wait") as refused:
        world.add("f")
    assert 1 <= refused.value.retry_after_s <= LONGEST_S
    assert world.scheduler.stats().refused == 1
    world.drain()
    world.add("f")


def test_the_time_to_come_back_is_the_line_at_the_recent_speed() -> None:
    world = World(max_num_seqs=1, max_queue=4)
    for number in range(5):
        world.add(str(number), answer=2)
    for number in range(5, 15):  # one request ends every two seconds, another comes
        world.step()
        world.step()
        world.add(str(number), answer=2)
    with pytest.raises(EngineBusy) as refused:
        world.add("more")
    assert 7 <= refused.value.retry_after_s <= 12  # five wait, two seconds each


# --- deadlines ------------------------------------------------------------------------------------


def test_a_request_expires_at_its_deadline_while_it_runs_and_frees_its_blocks() -> None:
    world = World()
    world.add("slow", answer=50, timeout_s=3.0)
    world.step()
    world.clock.now = 1002.9
    assert world.scheduler.expire() == []
    world.clock.now = 1003.0
    (expired,) = world.scheduler.expire()
    assert (expired.request_id, expired.num_generated) == ("slow", 1)
    assert not world.scheduler.has_work
    stats = world.scheduler.stats()
    assert (stats.blocks_used, stats.expired) == (0, 1)


def test_a_request_expires_while_it_waits_and_the_others_go_on() -> None:
    world = World()
    world.add("first", answer=20)
    world.add("second", timeout_s=2.0)
    world.step()
    world.clock.now += 5
    assert [request.request_id for request in world.scheduler.expire()] == ["second"]
    assert world.drain() == ["first"]


def test_a_request_that_ended_in_time_does_not_expire_later_nor_its_namesake() -> None:
    world = World()
    world.add("a", answer=1, timeout_s=5.0)
    world.drain()
    world.add("a", answer=30)
    world.clock.now += 100
    assert world.scheduler.expire() == []


# --- gathering ------------------------------------------------------------------------------------


def test_an_idle_engine_waits_for_more_requests_and_a_full_or_busy_one_does_not() -> None:
    world = World(max_num_seqs=2, batch_wait_s=0.5)
    assert world.scheduler.gathering_s == 0
    world.add("a")
    assert world.scheduler.gathering_s == 0.5
    world.clock.now += 0.3
    assert world.scheduler.gathering_s == pytest.approx(0.2)
    world.add("b")
    assert world.scheduler.gathering_s == 0
    world.step()
    world.scheduler.abort("a")
    world.add("c")
    assert world.scheduler.gathering_s == 0
    world.drain()
    world.add("d")
    world.clock.now += 0.5
    assert world.scheduler.gathering_s == 0


# --- everything at once ---------------------------------------------------------------------------

arrivals = st.lists(
    st.one_of(
        st.tuples(
            st.just("add"),
            st.integers(1, 30),
            st.integers(1, 25),
            st.integers(-3, 3),
            st.sampled_from([None, None, 2.0, 7.0, 20.0]),
        ),
        st.tuples(st.just("abort"), st.integers(0, 30)),
        st.tuples(st.just("fail")),
        st.tuples(st.just("step"), st.integers(1, 6)),
        st.tuples(st.just("wait"), st.integers(1, 20)),
    ),
    min_size=1,
    max_size=40,
)


class Ahead(World):
    """Launches each step before it takes in the last one's results, as the core does on a GPU.

    Knows what the device knows: the true tokens of each request, which `token_ids` may lack.
    """

    flight: tuple[Batch, list[Sampled]] | None = None

    def launch(self) -> None:
        before = self.flight
        batch = self.scheduler.schedule()
        check_batch(self.scheduler, batch)
        self.flight = (batch, [self.compute(c.request) for c in batch if c.is_sampled])
        self.scheduler.launched(batch)
        if before:
            self.land(before)
        if not batch:
            self.flight = None

    def compute(self, request: Request) -> Sampled:
        tokens = list(request.token_ids)
        if request.num_unknown:
            assert self.flight, f"{request} has an unknown token, but no step is on its way"
            batch, results = self.flight
            by_request = dict(zip((c.request for c in batch if c.is_sampled), results, strict=True))
            tokens[-1] = by_request[request].token_id or 0
        assert -1 not in tokens
        return Sampled(next_token(tokens))

    def land(self, flight: tuple[Batch, list[Sampled]]) -> None:
        self.take(self.scheduler.commit(*flight))
        self.scheduler.check_invariants()
        self.clock.now += 1

    def settle(self) -> None:
        if self.flight:
            flight, self.flight = self.flight, None
            self.land(flight)

    def step(self) -> list[Output]:
        self.launch()
        return []


@settings(max_examples=150, deadline=None)
@given(
    events=arrivals,
    num_blocks=st.integers(8, 40),
    max_num_seqs=st.integers(1, 4),
    max_queue=st.integers(0, 5),
    budget=st.integers(4, 24),
    runs_ahead=st.booleans(),
)
def test_whatever_arrives_nothing_leaks_and_every_request_is_answered_refused_or_told(
    events: list[tuple[object, ...]],
    num_blocks: int,
    max_num_seqs: int,
    max_queue: int,
    budget: int,
    runs_ahead: bool,
) -> None:
    world = (Ahead if runs_ahead else World)(
        num_blocks=num_blocks, max_num_seqs=max_num_seqs, max_queue=max_queue, budget=budget
    )
    asked: dict[str, Request] = {}
    gone: set[str] = set()
    prompts: dict[str, list[int]] = {}
    for number, event in enumerate([*events, ("wait", 100)]):
        name = "r" * (number + 1)
        match event:
            case ("add", int(length), int(answer), int(priority), timeout_s):
                try:
                    assert timeout_s is None or isinstance(timeout_s, float)
                    asked[name] = (
                        world.add(
                            name,
                            length=length,
                            answer=min(answer, (num_blocks - 1) * 4 - length) or 1,
                            priority=priority,
                            timeout_s=timeout_s,
                        )
                        if length < (num_blocks - 1) * 4
                        else world.add(name, length=1, answer=1)
                    )
                    prompts[name] = list(asked[name].token_ids)
                except EngineBusy:
                    stats = world.scheduler.stats()
                    assert stats.running + stats.waiting >= max_num_seqs + max_queue
            case ("abort", int(index)):
                if world.scheduler.abort("r" * index):
                    gone.add("r" * index)
            case ("fail",) if world.scheduler.has_work:
                if isinstance(world, Ahead):
                    world.settle()
                batch = world.scheduler.schedule()
                gone |= {request.request_id for request in world.scheduler.fail(batch)}
            case ("step", int(count)):
                for _ in range(count):
                    if world.scheduler.has_work:
                        world.step()
            case ("wait", int(seconds)):
                world.clock.now += seconds
        gone |= {request.request_id for request in world.scheduler.expire()}
        world.scheduler.check_invariants()
    world.drain()
    if isinstance(world, Ahead):
        world.settle()
    for name in asked.keys() - gone:
        count = asked[name].max_length - len(prompts[name])
        assert world.answers[name] == expected(prompts[name], count), name
    assert all(request.num_unknown == 0 for name, request in asked.items() if name not in gone)
    assert world.scheduler.stats().blocks_used == 0


def test_a_stop_token_found_after_the_next_step_was_launched_ends_the_answer_there() -> None:
    world = Ahead(max_num_seqs=2)
    prompt = [1, 2, 3]
    answer = expected(prompt, 6)
    stop = SamplingParams(max_new_tokens=20, stop_token_ids=(answer[3],))
    world.scheduler.submit("a", prompt, stop)
    world.add("beside", answer=9)
    world.drain()
    world.settle()
    assert world.answers["a"] == answer[:4]
    assert len(world.answers["beside"]) == 9
