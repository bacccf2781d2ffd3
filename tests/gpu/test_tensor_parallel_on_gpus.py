"""Two ranks on two GPUs, over NCCL, compute what one process computes on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.contract.run_ranks import NUM_TOKENS, PROMPT
from tests.contract.test_tensor_parallel import DIVIDED, answers_of_two_ranks, make_model
from tests.unit.tiny_models import generate

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    return answers_of_two_ranks(folder, "cuda")


@pytest.mark.parametrize("name", DIVIDED)
def test_two_gpus_equal_one_process(name: str, answers: dict[str, Any]) -> None:
    model = make_model(name, DIVIDED[name])
    with torch.inference_mode():
        logits = model(torch.tensor(PROMPT), use_cache=False).logits[0, -1]
    assert torch.allclose(torch.tensor(answers[name]["logits"]), logits, atol=1e-4, rtol=1e-4)
    assert answers[name]["tokens"] == generate(model, PROMPT[0], NUM_TOKENS)
