"""Our engine beside transformers' `generate`: same machine, same model, same prompts, one run.

    make bench            # or: python -m tests.bench.engine_vs_transformers --rounds 3

Two workloads on the demo model, greedy, the end token ignored by both: one request alone, and
16 requests at once (transformers gets them as one padded batch, its best case). The two engines
take turns within each round, and the medians are compared as a ratio. Ours is measured through
HTTP with streaming, as a client sees it; transformers is called in its own process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from panel.models.download import fetch
from panel.models.source import parse

TOPICS = ("rivers", "bread", "glass", "maps", "trains", "clocks", "bees", "paper")
PROMPTS = [f"Write a long story about {topic} number {n}." for n in (1, 2) for topic in TOPICS]


@dataclass(frozen=True)
class Workload:
    name: str
    num_requests: int
    new_tokens: int


WORKLOADS = (Workload("1 request", 1, 128), Workload("16 requests", 16, 64))

GENERATE = """
import json, sys, time, torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
transformers.logging.set_verbosity_error()
path = sys.argv[1]
tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    prompts, new_tokens = json.loads(line)
    texts = [tokenizer.apply_chat_template([{"role": "user", "content": p}], tokenize=False,
             add_generation_prompt=True) for p in prompts]
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    start = time.perf_counter()
    with torch.inference_mode():
        model.generate(**batch, max_new_tokens=new_tokens, min_new_tokens=new_tokens,
                       do_sample=False, pad_token_id=tokenizer.pad_token_id)
    print(json.dumps(time.perf_counter() - start), flush=True)
"""


class Transformers:
    """`generate` in a process of its own, told the prompts by a pipe."""

    def __init__(self, model_path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", GENERATE, str(model_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def _answer(self) -> float:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def seconds(self, workload: Workload) -> float:
        assert self._process.stdin is not None
        prompts = PROMPTS[: workload.num_requests]
        self._process.stdin.write(json.dumps([prompts, workload.new_tokens]) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


class Ours:
    """`python -m engine.launch` and a streaming client for each request."""

    def __init__(self, model_path: Path, options: list[str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # it lives as long as the engine
        command = [sys.executable, "-m", "engine.launch", "--model-path", str(model_path)]
        command += ["--port", str(port), "--served-model-name", "demo", *options]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        self._wait_until_ready()

    def _wait_until_ready(self, limit_s: float = 120) -> None:
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if httpx.get(f"{self.url}/health").status_code == 200:
                    return
            except httpx.ConnectError:
                pass
            time.sleep(0.2)
        self._log.seek(0)
        raise RuntimeError("the engine did not start:\n" + self._log.read().decode())

    def seconds(self, workload: Workload) -> float:
        return asyncio.run(self._run(workload))

    async def _run(self, workload: Workload) -> float:
        async with httpx.AsyncClient(timeout=600) as client:
            start = time.perf_counter()
            prompts = PROMPTS[: workload.num_requests]
            counts = await asyncio.gather(*(self._one(client, p, workload) for p in prompts))
            assert set(counts) == {workload.new_tokens}, counts
            return time.perf_counter() - start

    async def _one(self, client: httpx.AsyncClient, prompt: str, workload: Workload) -> int:
        body = {
            "model": "demo",
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": workload.new_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        tokens = 0
        async with client.stream("POST", f"{self.url}/v1/chat/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    tokens = (json.loads(line[6:]).get("usage") or {}).get(
                        "completion_tokens", tokens
                    )
        return tokens

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


def measure(model_path: Path, rounds: int, options: list[str]) -> dict[str, dict[str, list[float]]]:
    """Seconds of every round: {workload: {"ours": [...], "transformers": [...]}}."""
    seconds = {w.name: {"ours": [], "transformers": []} for w in WORKLOADS}
    ours, theirs = Ours(model_path, options), Transformers(model_path)
    try:
        for round_ in range(rounds + 1):  # the first one warms up and is not counted
            for workload in WORKLOADS:
                for name, engine in (("ours", ours), ("transformers", theirs)):
                    took = engine.seconds(workload)
                    if round_:
                        seconds[workload.name][name].append(took)
    finally:
        ours.close()
        theirs.close()
    return seconds


def show(seconds: dict[str, dict[str, list[float]]]) -> None:
    table = Table("workload", "ours tok/s", "transformers tok/s", "ratio", "range of the ratio")
    for workload in WORKLOADS:
        tokens = workload.num_requests * workload.new_tokens
        times = seconds[workload.name]
        ratios = [t / o for o, t in zip(times["ours"], times["transformers"], strict=True)]
        medians = {name: tokens / statistics.median(values) for name, values in times.items()}
        table.add_row(
            workload.name,
            f"{medians['ours']:.1f}",
            f"{medians['transformers']:.1f}",
            f"{statistics.median(ratios):.2f}",
            f"{min(ratios):.2f} … {max(ratios):.2f}",
        )
    console = Console()
    console.print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, float32")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", type=Path, default=Path("tests/.artifacts/models"))
    parser.add_argument("--model", help="a model source instead of the demo", default="demo")
    arguments, options = parser.parse_known_args()
    model_path = fetch(parse(arguments.model), arguments.models, lambda progress: None)
    show(measure(model_path, arguments.rounds, options))


if __name__ == "__main__":
    main()
