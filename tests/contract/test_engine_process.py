"""The whole engine as the supervisor meets it: real processes and signals, a tiny model."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.contract.tiny_tokenizer import EOS_ID, VOCAB_SIZE, save_folder, tiny_tokenizer

START_S = 90.0
"""Importing torch takes 3 s alone on a core, far more on a machine that runs other tests."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random llama of two layers with a byte tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("models") / "tiny"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=256,
        eos_token_id=EOS_ID,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


class Engine:
    """`python -m engine.launch` on a free port, with what it wrote."""

    def __init__(
        self,
        model: Path,
        log: Path,
        *options: str,
        port: int | None = None,
        module: str = "engine.launch",
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = log
        words = ["--model-path", str(model), "--port", str(self.port), "--max-seq-length", "512"]
        words += ["--num-threads", "1", "--device-map", "cpu", "--kv-cache-gib", "0.01", *options]
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *words],
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def fatal(self) -> dict[str, str]:
        """What the last engine.fatal line says."""
        (line,) = [line for line in self.log.splitlines() if " ERROR engine.fatal " in line]
        return json.loads(line.split(" engine.fatal ", 1)[1])

    def core(self) -> psutil.Process:
        (core,) = self.cores()
        return core

    def cores(self) -> list[psutil.Process]:
        """In the order of their start."""
        return sorted(psutil.Process(self.process.pid).children(), key=lambda core: core.pid)

    def health(self) -> dict[str, Any]:
        return httpx.get(self.url + "/health", timeout=15, trust_env=False).json()

    def wait_until_ready(self) -> list[str]:
        """The statuses seen on the way to ok, each once."""
        seen: list[str] = []
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log
            try:
                status = self.health()["status"]
            except httpx.ConnectError:
                time.sleep(0.02)
                continue
            if status not in seen:
                seen.append(status)
            if status == "ok":
                return seen
            time.sleep(0.1)
        raise AssertionError(f"not ready after {START_S} s: {self.log}")

    def chat(self, **fields: object) -> httpx.Response:
        body = {"messages": [{"role": "user", "content": "Hello"}], **fields}
        return httpx.post(self.url + "/v1/chat/completions", json=body, timeout=30, trust_env=False)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.fixture
def started(model: Path, tmp_path: Path) -> Iterator[Engine]:
    engine = Engine(model, tmp_path / "engine.log", "--enable-health-check")
    yield engine
    engine.end()


def _refused(model: Path, tmp_path: Path, *options: str, port: int | None = None) -> Engine:
    engine = Engine(model, tmp_path / "engine.log", *options, port=port)
    assert engine.process.wait(START_S) == 2, engine.log
    return engine


def test_an_engine_starts_answers_and_stops_when_asked(started: Engine) -> None:
    assert started.wait_until_ready() == ["starting", "ok"]
    core = started.core()
    answer = started.chat(max_tokens=5, temperature=0, ignore_eos=True).json()
    assert answer["usage"]["completion_tokens"] == 5
    streamed = started.chat(max_tokens=5, temperature=0, ignore_eos=True, stream=True).text
    events = [line.removeprefix("data: ") for line in streamed.splitlines() if line]
    assert events[-1] == "[DONE]"
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events[:-1]]
    text = "".join(delta.get("content", "") for delta in deltas)
    assert text == answer["choices"][0]["message"]["content"]
    assert started.health()["generated_tokens"] >= 10

    started.process.send_signal(signal.SIGTERM)
    assert started.process.wait(10) == 0, started.log
    assert not core.is_running()
    with pytest.raises(httpx.ConnectError):
        started.health()
    assert " ERROR " not in started.log


def test_a_running_stream_is_finished_before_the_engine_stops(started: Engine) -> None:
    started.wait_until_ready()
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True, "max_tokens": 50}
    body |= {"ignore_eos": True, "temperature": 0, "logprobs": True}
    url = started.url + "/v1/chat/completions"
    with httpx.stream("POST", url, json=body, timeout=30, trust_env=False) as response:
        lines = response.iter_lines()
        next(lines)
        started.process.send_signal(signal.SIGTERM)
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert started.process.wait(10) == 0, started.log


def test_killing_the_api_process_ends_the_core(started: Engine) -> None:
    started.wait_until_ready()
    core = started.core()
    started.process.kill()
    started.process.wait()
    assert _has_ended(core, 5)


def test_killing_the_api_process_while_it_loads_ends_the_core(started: Engine) -> None:
    deadline = time.monotonic() + START_S
    while not psutil.Process(started.process.pid).children() and time.monotonic() < deadline:
        time.sleep(0.02)
    core = started.core()
    started.process.kill()
    started.process.wait()
    assert _has_ended(core, 5)


def test_when_the_core_is_killed_clients_hear_of_it_and_the_engine_exits_with_1(
    started: Engine,
) -> None:
    started.wait_until_ready()
    started.core().suspend()  # so that the answer is surely still open
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(started.chat(max_tokens=5)))
    asking.start()
    time.sleep(0.3)
    started.core().kill()
    assert started.process.wait(20) == 1, started.log
    asking.join()
    assert answers[0].status_code == 503
    assert answers[0].json()["error"]["code"] == "engine_dead"
    assert "SIGKILL" in started.fatal["message"]


def test_a_core_that_stands_still_is_no_obstacle_to_stopping(started: Engine) -> None:
    started.wait_until_ready()
    core = started.core()
    core.suspend()
    started.process.send_signal(signal.SIGTERM)
    assert started.process.wait(12) == 0, started.log
    assert _has_ended(core, 1)


def _has_ended(process: psutil.Process, within_s: float) -> bool:
    try:
        process.wait(within_s)
    except psutil.TimeoutExpired:
        return False
    return True


def test_a_port_in_use_is_refused_with_its_number(model: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        engine = _refused(model, tmp_path, port=port)
    assert engine.fatal["code"] == "PortInUse"
    assert f"Port {port} on 127.0.0.1 is in use" in engine.fatal["message"]


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    engine = _refused(tmp_path / "nothing", tmp_path)
    assert "config.json" in engine.fatal["message"]


def test_a_model_without_weights_is_refused_by_the_core(tmp_path: Path) -> None:
    engine = _refused(save_folder(tmp_path / "hollow"), tmp_path)
    assert "safetensors" in engine.fatal["message"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--max-seq-len", "64"), "--max-seq-length"),
        (("--dtype", "float8"), "--dtype"),
        (("--host", "no.such.host.invalid"), "--host"),
        (("--host", "192.0.2.1"), "192.0.2.1"),
        (("--api-key-file", "/no/such/file"), "--api-key-file"),
    ],
)
def test_a_wrong_option_is_refused_by_name(
    model: Path, tmp_path: Path, options: tuple[str, str], named: str
) -> None:
    engine = _refused(model, tmp_path, *options)
    assert engine.fatal["code"] == "ConfigError"
    assert named in engine.fatal["message"] + engine.fatal["fix"]


def test_help_lists_every_option() -> None:
    command = [sys.executable, "-m", "engine.launch", "--help"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for flag in ("--model-path", "--max-seq-length", "--enable-health-check", "--port"):
        assert f"  {flag}" in text
