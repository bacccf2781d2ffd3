"""What the batching knobs do to latency and throughput: a table over several engines and loads.

    python -m tests.bench.batching_curve                  # about eight minutes on two cores
    python -m tests.bench.batching_curve --model-path DIR --seconds-each 6 --output table.md

Each engine is started with one setting of --max-num-seqs, --max-batch-tokens and --batch-wait-ms,
and asked by a growing number of clients, each of which sends its next request as soon as the last
one is answered (streamed, greedy, prompts of about 150 tokens that share no beginning, answers of
24). Told are medians: TTFT, the time to the first token; TPOT, the time per token after it; and
the tokens of all answers per second.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from panel.models.download import fetch
from panel.models.source import parse

NEW_TOKENS = 24
WORDS = ("river", "bread", "glass", "map", "train", "clock", "bee", "paper", "stone", "lamp")


@dataclass(frozen=True)
class Setting:
    max_num_seqs: int
    max_batch_tokens: int
    batch_wait_ms: int

    @property
    def argv(self) -> list[str]:
        return [
            f"--max-num-seqs={self.max_num_seqs}",
            f"--max-batch-tokens={self.max_batch_tokens}",
            f"--batch-wait-ms={self.batch_wait_ms}",
        ]


SETTINGS = (
    Setting(1, 1024, 0),
    Setting(4, 1024, 0),
    Setting(16, 64, 0),
    Setting(16, 256, 0),
    Setting(16, 1024, 0),
    Setting(16, 1024, 100),
)
CLIENTS = (1, 4, 16)


@dataclass(frozen=True)
class Answer:
    ttft_s: float
    tpot_s: float
    num_tokens: int


class Engine:
    """One engine as a process, at a free port."""

    def __init__(self, model_path: Path, setting: Setting, options: list[str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the engine
        command = [sys.executable, "-m", "engine.launch", "--model-path", str(model_path)]
        command += ["--port", str(port), "--served-model-name", "demo", "--max-seq-length", "1024"]
        command += [*setting.argv, *options]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)

    async def ready(self, client: httpx.AsyncClient) -> None:
        for _ in range(600):
            try:
                if (await client.get(f"{self.url}/health")).status_code == 200:
                    return
            except httpx.ConnectError:
                pass
            if self._process.poll() is not None:
                break
            await asyncio.sleep(0.2)
        self._log.seek(0)
        raise RuntimeError("the engine did not start:\n" + self._log.read().decode())

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._log.close()


async def ask(client: httpx.AsyncClient, url: str, number: int) -> Answer:
    words = " ".join(WORDS[(number * 7 + i * (number + 1)) % len(WORDS)] for i in range(120))
    body = {
        "model": "demo",
        "messages": [{"role": "user", "content": f"{number}: tell a story of {words}."}],
        "max_tokens": NEW_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    asked_at = time.perf_counter()
    times: list[float] = []
    async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if '"content":"' in line and '"content":""' not in line:
                times.append(time.perf_counter())
    ttft_s = times[0] - asked_at
    return Answer(ttft_s, (times[-1] - times[0]) / (NEW_TOKENS - 1), NEW_TOKENS)


async def load(client: httpx.AsyncClient, url: str, num_clients: int, seconds: float) -> list[str]:
    """One row's cells: TTFT, TPOT and throughput of this many clients for about this long."""
    numbers = itertools.count(num_clients * 1000)
    answers: list[Answer] = []
    start = time.perf_counter()

    async def one_client() -> None:
        while True:
            answers.append(await ask(client, url, next(numbers)))
            if time.perf_counter() - start > seconds:
                return

    await asyncio.gather(*(one_client() for _ in range(num_clients)))
    took_s = time.perf_counter() - start
    return [
        f"{statistics.median(a.ttft_s for a in answers) * 1000:.0f}",
        f"{statistics.median(a.tpot_s for a in answers) * 1000:.0f}",
        f"{sum(a.num_tokens for a in answers) / took_s:.0f}",
    ]


async def measure(model_path: Path, seconds_each: float, options: list[str]) -> list[list[str]]:
    rows: list[list[str]] = []
    async with httpx.AsyncClient(timeout=300) as client:
        for setting in SETTINGS:
            engine = Engine(model_path, setting, options)
            try:
                await engine.ready(client)
                await ask(client, engine.url, 0)
                for num_clients in CLIENTS:
                    cells = await load(client, engine.url, num_clients, seconds_each)
                    knobs = (setting.max_num_seqs, setting.max_batch_tokens, setting.batch_wait_ms)
                    rows.append([*map(str, (*knobs, num_clients)), *cells])
                    sys.stderr.write(" ".join(rows[-1]) + "\n")
            finally:
                engine.close()
    return rows


def table(rows: list[list[str]]) -> str:
    heads = ["max-num-seqs", "max-batch-tokens", "batch-wait-ms", "clients"]
    heads += ["TTFT ms", "TPOT ms", "tokens/s"]
    lines = [heads, ["---:"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--models", type=Path, default=Path("tests/.artifacts/models"))
    parser.add_argument("--model-path", type=Path, help="a model's folder instead of the demo")
    parser.add_argument("--seconds-each", type=float, default=8.0)
    parser.add_argument("--output", type=Path, help="write the table here too")
    arguments, options = parser.parse_known_args()
    model_path = arguments.model_path or fetch(parse("demo"), arguments.models, lambda _: None)
    load_before = os.getloadavg()[0]
    rows = asyncio.run(measure(model_path, arguments.seconds_each, options))
    text = f"{os.cpu_count()} cores, load {load_before:.1f} before, {os.getloadavg()[0]:.1f} after"
    text = f"{text}\n\n{table(rows)}"
    sys.stdout.write(text)
    if arguments.output:
        arguments.output.write_text(text)


if __name__ == "__main__":
    main()
