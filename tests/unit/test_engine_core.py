"""The core's loop over a real socket, and the core as the process that it is."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.core.loop import Connection, Loop, Results
from engine.core.messages import (
    Abort,
    Failed,
    Fatal,
    Loading,
    Message,
    Ready,
    SamplingParams,
    Step,
    Submit,
)
from engine.core.scheduler import Batch, Sampled, Scheduler
from engine.worker.runner import Runner
from tests.unit.tiny_models import TinyEngine, drain, generate, prompts, tiny_model

REPOSITORY = Path(__file__).parents[2]


class Client:
    """The API process's end of a socket."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(60)
        self.socket = sock
        self.connection = Connection(sock)

    def submit(self, name: str, prompt: Sequence[int], count: int = 4) -> None:
        sampling = SamplingParams(max_new_tokens=count, temperature=0.0)
        self.connection.send(Submit(name, list(prompt), sampling))

    def messages(self) -> Iterator[Message]:
        while not self.connection.is_closed:
            yield from self.connection.receive(None)

    def answers(self, names: set[str]) -> dict[str, list[int]]:
        """Read until these requests have ended; failed ones get no tokens."""
        tokens: dict[str, list[int]] = {name: [] for name in names}
        for message in self.messages():
            if isinstance(message, Failed):
                names.discard(message.request_id)
            if isinstance(message, Step):
                for output in message.outputs:
                    tokens[output.request_id] += output.token_ids
                    if output.finish_reason:
                        names.discard(output.request_id)
            if not names:
                break
        return tokens

    def until_idle(self) -> Step:
        """The first Step that tells of nobody running or waiting."""
        for message in self.messages():
            if isinstance(message, Step) and not message.stats.running + message.stats.waiting:
                return message
        raise AssertionError("the core closed the socket")


class Fails:
    def wait(self) -> Sequence[Sampled]:
        raise RuntimeError("out of memory")


class FailsOnce:
    """A runner whose second step raises, as a step that meets a full device would."""

    def __init__(self, runner: Runner, *, is_asynchronous: bool) -> None:
        self.runner = runner
        self.is_asynchronous = is_asynchronous
        self.steps = 0

    def admit(self, sampling: SamplingParams) -> None:
        self.runner.admit(sampling)

    def launch(self, batch: Batch) -> Results:
        self.steps += 1
        if self.steps != 2:
            return self.runner.launch(batch)
        if self.is_asynchronous:
            return Fails()
        raise RuntimeError("out of memory")


class Core:
    """A loop in a thread around a tiny model. runs_ahead: as on a GPU, the next step is launched
    before the last one's results are taken in."""

    def __init__(self, *, fails: bool = False, runs_ahead: bool = False) -> None:
        self.model = tiny_model("llama")
        self.scheduler: Scheduler
        self.scheduler, runner = TinyEngine(self.model).start(budget=16)
        ours, theirs = socket.socketpair()
        self.client = Client(ours)
        runner.is_asynchronous = runs_ahead
        self.runner = FailsOnce(runner, is_asynchronous=runs_ahead) if fails else runner
        loop = Loop(Connection(theirs), self.scheduler, self.runner)
        self.thread = threading.Thread(target=self._run, args=(loop, theirs))
        self.thread.start()

    def _run(self, loop: Loop, sock: socket.socket) -> None:
        loop.run()
        sock.close()

    def close(self) -> None:
        self.client.socket.close()
        self.thread.join(30)
        assert not self.thread.is_alive()


@pytest.fixture(params=[False, True], ids=["one by one", "running ahead"])
def core(request: pytest.FixtureRequest) -> Iterator[Core]:
    made = Core(runs_ahead=request.param)
    yield made
    made.close()


def test_requests_sent_over_the_socket_get_the_models_own_tokens(core: Core) -> None:
    asked = dict(zip("abc", prompts(5, 23, 14), strict=True))
    for name, prompt in asked.items():
        core.client.submit(name, prompt)
    answers = core.client.answers(set(asked))
    other = tiny_model("llama")
    assert answers == {name: generate(other, prompt, 4) for name, prompt in asked.items()}


def test_a_request_that_cannot_be_answered_fails_alone(core: Core) -> None:
    core.client.submit("long", range(100))
    core.client.submit("good", [1, 2, 3])
    seen = []
    for message in core.client.messages():
        seen.append(message)
        if isinstance(message, Step) and message.outputs and message.outputs[0].finish_reason:
            break
    (failed,) = [m for m in seen if isinstance(m, Failed)]
    assert (failed.request_id, failed.kind) == ("long", "request")
    assert "100 tokens" in failed.message
    assert "64 tokens" in failed.message


def test_an_aborted_request_is_gone_at_the_next_step_and_its_blocks_are_free(core: Core) -> None:
    core.client.submit("a", [1, 2, 3], count=60)
    next(m for m in core.client.messages() if isinstance(m, Step) and m.outputs)
    core.client.connection.send(Abort("a"))
    idle = core.client.until_idle()
    assert idle.stats.blocks_used == 0
    assert idle.stats.generated_tokens < 60


@pytest.mark.parametrize("runs_ahead", [False, True])
def test_a_step_that_raises_fails_its_requests_and_the_core_goes_on(runs_ahead: bool) -> None:
    core = Core(fails=True, runs_ahead=runs_ahead)
    core.client.submit("unlucky", [1, 2, 3])
    failed = next(m for m in core.client.messages() if isinstance(m, Failed))
    assert (failed.request_id, failed.kind) == ("unlucky", "internal")
    assert "out of memory" in failed.message
    core.client.submit("lucky", [1, 2, 3])
    assert len(core.client.answers({"lucky"})["lucky"]) == 4
    core.close()


def test_requests_that_need_their_tokens_on_the_host_are_mixed_with_those_that_run_ahead(
    core: Core,
) -> None:
    asked = dict(zip("abcd", prompts(5, 23, 14, 9), strict=True))
    wishes: dict[str, dict[str, Any]] = {
        "a": {"temperature": 0.0, "repetition_penalty": 1.5},
        "b": {"temperature": 1.0, "seed": 7},
        "c": {"temperature": 0.0},
        "d": {"temperature": 1.0, "seed": 8, "logprobs": 2, "top_p": 0.8},
    }
    alone, runner = TinyEngine(tiny_model("llama")).start()
    for name, prompt in asked.items():
        sampling = SamplingParams(max_new_tokens=12, **wishes[name])
        alone.submit(name, prompt, sampling)
        core.client.connection.send(Submit(name, prompt, sampling))
    assert core.client.answers(set(asked)) == drain(alone, runner)


def test_a_request_whose_time_is_over_gets_an_error_and_frees_its_blocks(core: Core) -> None:
    sampling = SamplingParams(max_new_tokens=60, temperature=0.0)
    core.client.connection.send(Submit("late", [1, 2, 3], sampling, timeout_s=0.0))
    messages = core.client.messages()
    failed = next(m for m in messages if isinstance(m, Failed))
    assert (failed.request_id, failed.kind) == ("late", "timeout")
    idle = next(m for m in messages if isinstance(m, Step))
    assert (idle.stats.expired, idle.stats.running, idle.stats.blocks_used) == (1, 0, 0)


def test_the_loop_ends_when_the_other_side_closes_while_it_computes(core: Core) -> None:
    core.client.submit("a", [1, 2, 3], count=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tiny")
    tiny_model("llama").save_pretrained(made)
    return made


class CoreProcess:
    """`python -m engine.core.process` with a listening socket beside it."""

    def __init__(self, socket_path: Path, *options: str) -> None:
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(socket_path))
        self.server.listen(1)
        self.server.settimeout(60)
        command = [sys.executable, "-m", "engine.core.process", "--socket", str(socket_path)]
        self.process = subprocess.Popen(
            [*command, *options], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True
        )
        self.client = Client(self.server.accept()[0])

    def end(self) -> int:
        self.client.socket.close()
        self.server.close()
        _, self.log = self.process.communicate(timeout=30)
        return self.process.returncode


def test_the_core_process_loads_serves_and_ends_with_its_socket(
    folder: Path, tmp_path: Path
) -> None:
    core = CoreProcess(tmp_path / "s", "--model-path", str(folder), "--num-threads", "1")
    told: list[Message] = []
    for message in core.client.messages():
        told.append(message)
        if isinstance(message, Ready | Fatal):
            break
    assert [m.stage for m in told if isinstance(m, Loading)][:1] == ["load"]
    ready = told[-1]
    assert isinstance(ready, Ready), ready
    assert (ready.model_type, ready.dtype, ready.max_seq_length) == ("llama", "float32", 512)
    prompt = prompts(9)[0]
    core.client.submit("a", prompt)
    assert core.client.answers({"a"})["a"] == generate(tiny_model("llama"), prompt, 4)
    assert core.end() == 0
    assert " INFO engine.load Ready: " in core.log


def test_a_core_that_cannot_load_says_why_and_ends_with_2(tmp_path: Path) -> None:
    core = CoreProcess(tmp_path / "s", "--model-path", str(tmp_path / "nowhere"))
    fatal = next(m for m in core.client.messages() if isinstance(m, Fatal))
    assert fatal.code == "ModelError"
    assert "nowhere does not exist" in fatal.message
    assert core.end() == 2


def test_an_unknown_option_is_fatal_before_torch_is_imported(tmp_path: Path) -> None:
    core = CoreProcess(tmp_path / "s", "--modelpath", "x")
    fatal = next(m for m in core.client.messages() if isinstance(m, Fatal))
    assert fatal.code == "ConfigError"
    assert core.end() == 2


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's own")
def test_the_core_dies_with_its_parent(folder: Path, tmp_path: Path) -> None:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "s"))
    server.listen(1)
    command = [sys.executable, "-m", "engine.core.process", "--socket", str(tmp_path / "s")]
    parent = "import subprocess, sys, time; subprocess.Popen(sys.argv[1:]); time.sleep(600)"
    process = subprocess.Popen(
        [sys.executable, "-c", parent, *command, "--model-path", str(folder)],
        cwd=REPOSITORY,
        stderr=subprocess.DEVNULL,
    )
    client = Client(server.accept()[0])
    messages = client.messages()
    next(messages)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    rest = list(messages)  # ends when the kernel has closed the dead core's socket
    assert not [message for message in rest if isinstance(message, Fatal)]
    client.socket.close()
    server.close()


def test_steps_of_few_tokens_use_half_of_the_threads() -> None:
    scheduler, runner = TinyEngine(tiny_model("llama")).start(num_threads=4)
    scheduler.submit("a", prompts(20)[0], SamplingParams(max_new_tokens=2))
    used = []
    while scheduler.has_work:
        batch = scheduler.schedule()
        scheduler.commit(batch, runner.run(batch))
        used.append(torch.get_num_threads())
    assert used == [4, 2]


def test_importing_the_scheduler_does_not_import_torch() -> None:
    code = (
        "import sys, engine.core.loop, engine.core.process, engine.footprint\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
