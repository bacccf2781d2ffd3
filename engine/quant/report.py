"""`python -m engine.quant.report MODEL_FOLDER`: bytes and quality of each quantization, measured.

Loads the model in full precision and then in each format, one after the other, exactly as the
engine does, and lets each predict the shipped text.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from engine.config import EngineConfig
from engine.errors import EngineError
from engine.footprint import MIB
from engine.model.device import choose_device
from engine.model.load import load_model, stored_bytes
from engine.model.tokenizer import load_tokenizer
from engine.quant import quality
from engine.quant.quality import Predictions
from engine.quant.replace import FORMATS, pack_weights

FULL = "none"


@dataclass(frozen=True, slots=True)
class Row:
    """One format's costs. By language: perplexity on the shipped text, and the share of its places
    at which the likeliest token is that of full precision."""

    quantization: str
    weight_bytes: int
    bytes_saved: float
    perplexity: dict[str, float]
    agreement: dict[str, float]


def formats_for(device_map: str) -> list[str]:
    """The formats that this device computes."""
    is_gpu = choose_device(device_map).type == "cuda"
    return [name for name in FORMATS if not (is_gpu and name == "int8_dynamic")]


def measure(config: EngineConfig, formats: Sequence[str]) -> Iterator[Row]:
    """A row for full precision, then one for each format. Raises ModelError, ConfigError."""
    tokenizer = load_tokenizer(Path(config.model_path))
    rows = {
        language: quality.windows(
            tokenizer.encode(quality.text(language), add_special_tokens=False)
        )
        for language in quality.LANGUAGES
    }
    full: dict[str, Predictions] = {}
    full_bytes = 0
    for name in (FULL, *(name for name in formats if name != FULL)):
        num_bytes, seen = _predict(config, name, rows)
        full, full_bytes = full or seen, full_bytes or num_bytes
        yield Row(
            quantization=name,
            weight_bytes=num_bytes,
            bytes_saved=1 - num_bytes / full_bytes,
            perplexity={language: p.perplexity for language, p in seen.items()},
            agreement={language: p.agreement(full[language]) for language, p in seen.items()},
        )


def _predict(
    config: EngineConfig, quantization: str, rows: dict[str, list[list[int]]]
) -> tuple[int, dict[str, Predictions]]:
    """Bytes of the weights and what the model thinks; the model is gone afterwards."""
    options = config.to_dict() | {"quantization": quantization}
    model = load_model(EngineConfig.from_dict(options), lambda *_: None).model
    pack_weights(model)
    seen = {language: quality.predict(model, ids) for language, ids in rows.items()}
    num_bytes = stored_bytes(model)
    del model
    gc.collect()
    return num_bytes, seen


def table(rows: Sequence[Row]) -> Table:
    result = Table("quantization", "weights MiB", "saved")
    for language in quality.LANGUAGES:
        result.add_column(f"perplexity {language}", justify="right")
        result.add_column(f"same token {language}", justify="right")
    for row in rows:
        costs = [
            cell
            for language in quality.LANGUAGES
            for cell in (f"{row.perplexity[language]:.2f}", f"{row.agreement[language]:.1%}")
        ]
        weights = f"{row.weight_bytes / MIB:.0f}"
        result.add_row(row.quantization, weights, f"{row.bytes_saved:.0%}", *costs)
    return result


def main(argv: Sequence[str], write: Callable[[str], object] = sys.stdout.write) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m engine.quant.report", description="Bytes and quality of quantizations."
    )
    parser.add_argument("model_folder")
    parser.add_argument(
        "--quantization", nargs="+", choices=tuple(FORMATS), help="default: all that run here"
    )
    parser.add_argument("--device-map", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    asked = parser.parse_args(argv)
    config = EngineConfig(
        model_path=asked.model_folder, device_map=asked.device_map, dtype=asked.dtype
    )
    rows = list(measure(config, asked.quantization or formats_for(asked.device_map)))
    if asked.json:
        write(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
        return
    console = Console(width=100)
    with console.capture() as capture:
        console.print(table(rows))
    write(capture.get())


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except EngineError as error:
        sys.stderr.write(f"error: {error.message}\nfix: {error.fix}\n")
        sys.exit(2)
