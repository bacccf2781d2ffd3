"""The whole way on a GPU: facts by NVML, the engine started as a command, tokens over HTTP."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from panel.hardware.detect import detect
from tests.contract.tiny_tokenizer import EOS_ID, VOCAB_SIZE, tiny_tokenizer

START_S = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random llama of 0.2 B parameters with a byte tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    path = tmp_path_factory.mktemp("models") / "small"
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=12,
        num_attention_heads=16,
        num_key_value_heads=4,
        max_position_embeddings=8192,
        bos_token_id=256,
        eos_token_id=EOS_ID,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.cpu().save_pretrained(path)
    del model
    torch.cuda.empty_cache()
    tiny_tokenizer().save_pretrained(path)
    return path


@contextmanager
def engine(folder: Path, log: Path, *options: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """A running engine's address and what /health says once it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "engine.launch", "--model-path", str(folder)]
    command += ["--device-map", "auto", "--port", str(port), "--enable-health-check", *options]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        url = f"http://127.0.0.1:{port}"
        yield url, wait_until_ready(process, url, log)
    finally:
        process.terminate()
        assert process.wait(30) == 0, log.read_text()


def wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> dict[str, Any]:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            answer = httpx.get(f"{url}/health", timeout=30)
        except httpx.ConnectError:
            time.sleep(0.1)
            continue
        if answer.status_code == 200:
            return answer.json()
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def ask(url: str, **fields: Any) -> dict[str, Any]:
    body = {"model": "small", "prompt": "Once upon a time", "temperature": 0, **fields}
    answer = httpx.post(f"{url}/v1/completions", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_nvml_and_torch_see_the_same_gpus(tmp_path: Path) -> None:
    gpus = detect(tmp_path).gpus
    assert len(gpus) == torch.cuda.device_count()
    properties = torch.cuda.get_device_properties(0)
    assert gpus[0].name == properties.name
    assert gpus[0].compute_capability == (properties.major, properties.minor)
    assert gpus[0].memory_bytes >= properties.total_memory


@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
def test_auto_puts_the_model_on_the_gpu_and_answers(
    folder: Path, tmp_path: Path, quantization: str
) -> None:
    options = ("--quantization", quantization)
    with engine(folder, tmp_path / "log", *options) as (url, health):
        assert health["device"].startswith("cuda"), health
        stored = folder.joinpath("model.safetensors").stat().st_size
        share = {"none": 1.0, "int8": 0.5, "int4": 0.28}[quantization]
        assert health["memory"]["weight_bytes"] == pytest.approx(stored * share, rel=0.06)
        first = ask(url, max_tokens=32, ignore_eos=True)
        assert first["usage"]["completion_tokens"] == 32
        again = ask(url, max_tokens=32, ignore_eos=True)
        assert again["choices"][0]["text"] == first["choices"][0]["text"]
