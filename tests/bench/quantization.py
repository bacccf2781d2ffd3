"""One request's tokens a second under each quantization, beside full precision: ratios, one run.

    python -m tests.bench.quantization --rounds 3 --formats none int8 int8_dynamic int4

One engine for each format stands ready; they take turns within each round, through HTTP with
streaming, and the medians of the rounds are compared. Greedy, the end token ignored.
"""

from __future__ import annotations

import argparse
import os
import statistics
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from engine.footprint import MIB
from panel.models.download import fetch
from panel.models.source import parse
from tests.bench.engine_vs_transformers import Ours, Workload

WORKLOAD = Workload("1 request", 1, 96)


def measure(engines: dict[str, Ours], rounds: int) -> dict[str, list[float]]:
    """Tokens a second of every round, by format."""
    rates: dict[str, list[float]] = {name: [] for name in engines}
    for round_ in range(rounds + 1):  # the first one warms up and is not counted
        for name, engine in engines.items():
            took = engine.seconds(WORKLOAD)
            if round_:
                rates[name].append(WORKLOAD.new_tokens / took)
    return rates


def weight_bytes(engine: Ours) -> int:
    return httpx.get(f"{engine.url}/health").json()["memory"]["weight_bytes"]


def show(rates: dict[str, list[float]], num_bytes: dict[str, int], load: float) -> None:
    table = Table("format", "weights MiB", "tok/s", "against the first", "range")
    first = next(iter(rates.values()))
    for name, values in rates.items():
        ratios = [value / base for value, base in zip(values, first, strict=True)]
        table.add_row(
            name,
            f"{num_bytes[name] / MIB:.0f}",
            f"{statistics.median(values):.1f}",
            f"{statistics.median(ratios):.2f}",
            f"{min(ratios):.2f} … {max(ratios):.2f}",
        )
    console = Console()
    console.print(f"{os.cpu_count()} cores, load average {load:.1f} at the start")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", type=Path, default=Path("tests/.artifacts/models"))
    parser.add_argument("--model", help="a model source instead of the demo", default="demo")
    parser.add_argument("--formats", nargs="+", default=["none", "int8", "int8_dynamic", "int4"])
    arguments, options = parser.parse_known_args()
    model_path = fetch(parse(arguments.model), arguments.models, lambda progress: None)
    load = os.getloadavg()[0]
    engines: dict[str, Ours] = {}
    try:
        for name in arguments.formats:
            engines[name] = Ours(model_path, ["--quantization", name, *options])
        num_bytes = {name: weight_bytes(engine) for name, engine in engines.items()}
        show(measure(engines, arguments.rounds), num_bytes, load)
    finally:
        for engine in engines.values():
            engine.close()


if __name__ == "__main__":
    main()
