"""`python -m tests.contract.run_ranks FOLDER RANK WORLD_SIZE cpu|cuda`: one rank of some models.

Every rank runs the same scheduler, as all have the same logits. Rank 0 writes what it answered to
FOLDER/answers.json, by the name of each model under FOLDER: the logits of the first step and the
greedy tokens, or the refusal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from engine.config import EngineConfig
from engine.errors import EngineError
from engine.model.adapt import adapt
from engine.model.load import load_model
from engine.model.merge import merge_siblings
from engine.model.parallel import Rank, connect, join
from engine.worker.runner import Runner
from tests.unit.tiny_models import TinyEngine, greedy, prompts

PROMPT = prompts(19)
NUM_TOKENS = 6


class Sharded(TinyEngine):
    """A TinyEngine around one rank's part of a saved model."""

    def __init__(self, folder: Path, rank: Rank, device: torch.device) -> None:
        config = EngineConfig(model_path=str(folder), device_map=str(device), dtype="float32")
        loaded = load_model(config, lambda share, detail: None, rank)
        self.model = loaded.model
        connect(loaded.model, loaded.sharding)
        self.layers = adapt(loaded.model)
        self.num_merged = merge_siblings(loaded.model)


def answer(folder: Path, rank: Rank, device: torch.device) -> dict[str, Any]:
    try:
        engine = Sharded(folder, rank, device)
    except EngineError as error:
        return {"error": type(error).__name__, "message": str(error)}
    logits: list[torch.Tensor] = []
    engine.model.register_forward_hook(lambda _, __, output: logits.append(output.logits))
    scheduler, runner = engine.start()
    assert isinstance(runner, Runner)
    (tokens,) = greedy(scheduler, runner, PROMPT, NUM_TOKENS)
    num_params = sum(p.numel() for p in engine.model.parameters())
    first = logits[0].flatten().tolist()
    return {"tokens": tokens, "logits": first, "num_params": num_params}


def main(argv: Sequence[str]) -> int:
    folder, rank = Path(argv[0]), Rank(int(argv[1]), int(argv[2]))
    device = torch.device("cpu" if argv[3] == "cpu" else f"cuda:{rank.index}")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.set_num_threads(1)
    join(rank, folder / "meeting", device)
    models = sorted(path for path in folder.iterdir() if path.is_dir())
    answers = {path.name: answer(path, rank, device) for path in models}
    if rank.index == 0:
        (folder / "answers.json").write_text(json.dumps(answers))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
