"""Several cores behind one address: real processes that are killed, suspended and started again."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from engine.api.chat import load
from engine.api.core_link import CoreLink, Phase
from engine.api.health import Health
from engine.api.keys import Keys
from engine.api.replicas import Replicas
from engine.api.state import EngineState
from engine.config import EngineConfig
from tests.contract.fake_core import READY, FakeCore, Script
from tests.contract.run_engine import NUM_TOKENS
from tests.contract.test_engine_process import Engine, model  # noqa: F401  model is a fixture
from tests.contract.tiny_tokenizer import save_folder

ROUND_ROBIN = ("--routing", "round_robin")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder(tmp_path_factory.mktemp("scripted") / "tiny")


@pytest.fixture(scope="module")
def running(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Two scripted cores behind one address, for tests after which both are well again."""
    engine = _start(folder, tmp_path_factory.mktemp("engine") / "log")
    yield engine
    engine.end()


@pytest.fixture
def engine(running: Engine) -> Engine:
    _until(lambda: _statuses(running) == ["ok", "ok"])
    return running


def _start(folder: Path, log: Path) -> Engine:
    words = ("--replicas", "2", *ROUND_ROBIN)
    engine = Engine(folder, log, *words, module="tests.contract.run_engine")
    engine.wait_until_ready()
    _until(lambda: _statuses(engine) == ["ok", "ok"])
    return engine


def _made(engine: Engine) -> list[int]:
    return [replica["generated_tokens"] for replica in engine.health()["replicas"]]


def _statuses(engine: Engine) -> list[str]:
    return [replica["status"] for replica in engine.health()["replicas"]]


def _until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition was not reached in time"
        time.sleep(0.02)


def _ask(engine: Engine, pool: ThreadPoolExecutor, count: int) -> list[Future[httpx.Response]]:
    return [pool.submit(engine.chat, max_tokens=100) for _ in range(count)]


def test_requests_are_spread_and_each_replica_shows_in_health_and_metrics(engine: Engine) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = [asked.result() for asked in _ask(engine, pool, 4)]
    assert [answer.status_code for answer in answers] == [200] * 4
    assert _made(engine) == [2 * (NUM_TOKENS + 1)] * 2
    metrics = httpx.get(engine.url + "/metrics", trust_env=False).text
    for replica in (0, 1):
        assert f'autoglm_replica_up{{replica="{replica}"}} 1.0' in metrics
    assert f"autoglm_generated_tokens_total {4 * (NUM_TOKENS + 1)}.0" in metrics


def test_a_killed_replica_is_routed_around_and_comes_back(engine: Engine) -> None:
    made = sum(_made(engine))
    engine.cores()[0].kill()
    assert [engine.chat(max_tokens=2).status_code for _ in range(6)] == [200] * 6
    _until(lambda: _statuses(engine) == ["ok", "ok"])
    assert sorted(replica["restarts"] for replica in engine.health()["replicas"]) == [0, 1]
    assert sum(_made(engine)) == made + 12, "counters go on after a restart"
    assert "ended: The engine core was ended by SIGKILL." in engine.log
    assert "engine.fatal" not in engine.log


def test_requests_without_a_token_are_answered_by_another_replica(engine: Engine) -> None:
    made = sum(_made(engine))
    first = engine.cores()[0]
    first.suspend()
    with ThreadPoolExecutor(6) as pool:
        asked = _ask(engine, pool, 6)
        _until(lambda: 3 in [replica["open"] for replica in engine.health()["replicas"]])
        _until(lambda: sum(_made(engine)) == made + 3 * (NUM_TOKENS + 1))
        first.kill()
        assert [answer.result().status_code for answer in asked] == [200] * 6
    assert sum(_made(engine)) == made + 6 * (NUM_TOKENS + 1)


def test_a_stream_that_has_begun_ends_with_an_error_event(engine: Engine) -> None:
    """Which process has the stream is not told: at the second try it is the other one's turn."""
    lasts = [_last_event_when_killed(engine, 0)]
    if lasts == ["[DONE]"]:
        _until(lambda: _statuses(engine) == ["ok", "ok"])
        lasts.append(_last_event_when_killed(engine, 1))
    assert json.loads(lasts[-1])["error"]["code"] == "engine_dead"
    assert engine.chat(max_tokens=2).status_code == 200


def _last_event_when_killed(engine: Engine, index: int) -> str:
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
    url = engine.url + "/v1/chat/completions"
    with httpx.stream("POST", url, json=body, timeout=30, trust_env=False) as response:
        lines = response.iter_lines()
        next(lines)
        engine.cores()[index].kill()
        return [line for line in lines if line][-1].removeprefix("data: ")


def test_a_replica_that_stands_still_is_given_up_while_another_computes(
    folder: Path, tmp_path: Path
) -> None:
    async def run() -> None:
        links = [CoreLink(), CoreLink()]
        cores = [FakeCore(tmp_path / str(number)) for number in (0, 1)]
        for link, core, number in zip(links, cores, (0, 1), strict=True):
            await link.listen(tmp_path / str(number))
            running.append(asyncio.create_task(core.run()))
            await link.connected.wait()
            core.send(READY)
            await link.became_ready.wait()
        config = EngineConfig(model_path=str(folder), enable_health_check=True)
        state = EngineState(config, Replicas(links), Keys(), load(folder))
        health = Health(state, fresh_s=0.0, deadline_s=0.5)
        cores[0].script = Script(is_mute=True)
        assert (await health.report())[0] == 200
        assert [link.phase for link in links] == [Phase.DEAD, Phase.READY]
        assert "No step in 0.5 s" in links[0].why()
        cores[1].script = Script(is_mute=True)
        assert (await health.report())[1]["status"] == "stalled"
        assert links[1].phase is Phase.READY
        for link in links:
            await link.close()
        await asyncio.gather(*running)

    running: list[asyncio.Task[None]] = []
    asyncio.run(run())


def test_when_all_replicas_are_dead_the_engine_exits_with_1(folder: Path, tmp_path: Path) -> None:
    engine = _start(folder, tmp_path / "log")
    for core in engine.cores():
        core.suspend()
    with ThreadPoolExecutor(2) as pool:
        asked = _ask(engine, pool, 2)
        _until(lambda: [r["open"] for r in engine.health()["replicas"]] == [1, 1])
        for core in engine.cores():
            core.kill()
        assert engine.process.wait(10) == 1, engine.log
        answers = [answer.result() for answer in asked]
    assert [answer.status_code for answer in answers] == [503] * 2
    assert "SIGKILL" in engine.fatal["message"]


def test_stopping_ends_all_replicas(folder: Path, tmp_path: Path) -> None:
    engine = _start(folder, tmp_path / "log")
    cores = engine.cores()
    engine.process.send_signal(signal.SIGTERM)
    assert engine.process.wait(10) == 0, engine.log
    assert not any(core.is_running() for core in cores)


def test_two_real_replicas_answer_alike_and_one_survives_the_other(
    model: Path,  # noqa: F811  the fixture
    tmp_path: Path,
) -> None:
    engine = Engine(model, tmp_path / "log", "--replicas", "2", *ROUND_ROBIN)
    try:
        engine.wait_until_ready()
        _until(lambda: _statuses(engine) == ["ok", "ok"])
        texts = {_text(engine) for _ in range(2)}
        engine.cores()[0].kill()
        texts |= {_text(engine) for _ in range(2)}
        assert len(texts) == 1
        assert "Starting it again" in engine.log
    finally:
        engine.end()


def _text(engine: Engine) -> str:
    answer = engine.chat(max_tokens=5, temperature=0, ignore_eos=True).json()
    return answer["choices"][0]["message"]["content"]
