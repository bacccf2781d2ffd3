"""One request's tokens a second under each quantization, beside full precision: ratios, one run.

    python -m tests.bench.quantization --rounds 5 --formats none int8 int8_dynamic int4

All engines are built in this process and take turns within each round; every decode step is timed
from schedule to commit. Both the wall's time and the process's own are told: on a machine that is
busy with other work only the latter means much. One thread; greedy; no HTTP.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from engine.config import EngineConfig
from engine.core.messages import SamplingParams
from engine.footprint import MIB
from engine.worker.assembly import Engine, assemble
from panel.models.download import fetch
from panel.models.source import parse

PROMPT = [7 + number for number in range(24)]


@dataclass
class Times:
    """Median milliseconds of a decode step, one entry a round."""

    wall_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)


def build(model_path: Path, quantization: str) -> Engine:
    config = EngineConfig(
        model_path=str(model_path),
        device_map="cpu",
        num_threads=1,
        quantization=quantization,
        max_seq_length=512,
        max_num_seqs=1,
        enable_prefix_cache=False,
    )
    return assemble(config, lambda *_: None)


def one_round(engine: Engine, name: str, num_tokens: int) -> tuple[float, float]:
    """Medians of a request's decode steps in milliseconds: the wall's, the process's."""
    sampling = SamplingParams(max_new_tokens=num_tokens, temperature=0)
    engine.scheduler.submit(name, PROMPT, sampling)
    wall: list[float] = []
    cpu: list[float] = []
    while engine.scheduler.has_work:
        started, used = time.perf_counter(), time.process_time()
        batch = engine.scheduler.schedule()
        engine.scheduler.commit(batch, engine.runner.run(batch))
        wall.append((time.perf_counter() - started) * 1000)
        cpu.append((time.process_time() - used) * 1000)
    return statistics.median(wall[1:]), statistics.median(cpu[1:])


def measure(engines: dict[str, Engine], rounds: int, num_tokens: int) -> dict[str, Times]:
    times = {name: Times() for name in engines}
    for round_ in range(rounds + 1):  # the first one warms up and is not counted
        for name, engine in engines.items():
            wall_ms, cpu_ms = one_round(engine, f"{name} {round_}", num_tokens)
            if round_:
                times[name].wall_ms.append(wall_ms)
                times[name].cpu_ms.append(cpu_ms)
    return times


def show(times: dict[str, Times], engines: dict[str, Engine]) -> None:
    table = Table("format", "weights MiB", "tok/s", "tok/s of CPU time", "ratio", "range")
    first = next(iter(times.values()))
    for name, mine in times.items():
        ratios = [base / ms for base, ms in zip(first.cpu_ms, mine.cpu_ms, strict=True)]
        table.add_row(
            name,
            f"{engines[name].ready.weight_bytes / MIB:.0f}",
            f"{1000 / statistics.median(mine.wall_ms):.1f}",
            f"{1000 / statistics.median(mine.cpu_ms):.1f}",
            f"{statistics.median(ratios):.2f}",
            f"{min(ratios):.2f} … {max(ratios):.2f}",
        )
    console = Console(width=90)
    console.print(f"one thread, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=33)
    parser.add_argument("--models", type=Path, default=Path("tests/.artifacts/models"))
    parser.add_argument("--model", help="a model source instead of the demo", default="demo")
    parser.add_argument("--formats", nargs="+", default=["none", "int8", "int8_dynamic", "int4"])
    asked = parser.parse_args()
    model_path = fetch(parse(asked.model), asked.models, lambda progress: None)
    engines = {name: build(model_path, name) for name in asked.formats}
    show(measure(engines, asked.rounds, asked.tokens), engines)


if __name__ == "__main__":
    main()
