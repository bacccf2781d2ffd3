"""A whole engine whose core is two processes: it answers like one, and ends like one."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from tests.contract.test_engine_process import Engine, model  # noqa: F401  model is a fixture

TWO_RANKS = ("--tensor-parallel-size", "2")


@pytest.fixture
def engine(model: Path, tmp_path: Path) -> Iterator[Engine]:  # noqa: F811  the fixture
    started = Engine(model, tmp_path / "log", *TWO_RANKS)
    yield started
    started.end()


def _rank(engine: Engine) -> psutil.Process:
    (rank,) = engine.core().children()
    return rank


def test_a_core_of_two_ranks_answers_like_one_and_ends_with_its_ranks(
    engine: Engine,
    model: Path,  # noqa: F811  the fixture
    tmp_path: Path,
) -> None:
    alone = Engine(model, tmp_path / "alone")
    engine.wait_until_ready()
    alone.wait_until_ready()
    try:
        assert engine.health()["device"] == "2 ranks, the first on cpu"
        for wish in ({"temperature": 0}, {"temperature": 1.0, "seed": 7}):
            asked = {"max_tokens": 12, "ignore_eos": True, **wish}
            assert _text(engine.chat(**asked)) == _text(alone.chat(**asked))
        memory, whole = engine.health()["memory"], alone.health()["memory"]
        assert memory["kv_tokens"] >= whole["kv_tokens"]
    finally:
        alone.end()
    rank = _rank(engine)
    engine.process.send_signal(signal.SIGTERM)
    assert engine.process.wait(10) == 0, engine.log
    assert not rank.is_running()
    assert " ERROR " not in engine.log


def _text(answer: httpx.Response) -> str:
    return answer.json()["choices"][0]["message"]["content"]


def test_a_dead_rank_ends_the_core_at_once_and_is_named(engine: Engine) -> None:
    engine.wait_until_ready()
    core, rank = engine.core(), _rank(engine)
    rank.suspend()  # so that the core surely waits for it in a collective
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(engine.chat, max_tokens=5)
        time.sleep(0.3)
        rank.kill()
        assert engine.process.wait(5) == 1, engine.log
        assert asked.result().status_code == 503
    assert not core.is_running()
    assert engine.fatal["code"] == "RankLost"
    assert "rank 1 of 2 ended by SIGKILL" in engine.fatal["message"]


def test_a_dead_core_ends_its_ranks(engine: Engine) -> None:
    engine.wait_until_ready()
    core, rank = engine.core(), _rank(engine)
    core.kill()
    assert engine.process.wait(5) == 1, engine.log
    rank.wait(5)
