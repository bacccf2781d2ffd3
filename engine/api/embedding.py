"""Texts to vectors: which models are made for it, how hidden states are pooled and written.

A model is made for it if its folder says how to pool, in the files of sentence-transformers. The
core reports final hidden states (a sum, or the last token's); here they become unit vectors.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.core.messages import PromptPart
from engine.errors import ModelError, RequestError

_POOLINGS = {"mean": "mean", "lasttoken": "last"}
"""sentence-transformers' words for what a decoder can do, and ours. A [CLS] token it has not."""

Vector = NDArray[np.float32]


def pooling_of(folder: Path) -> str | None:
    """How the model's maker pools: "mean" or "last"; None where the folder says nothing.

    Raises RequestError for a pooling that this engine does not have, ModelError for a broken file.
    """
    try:
        modules = json.loads((folder / "modules.json").read_text())
        place = next((m["path"] for m in modules if m["type"].endswith(".Pooling")), None)
        if place is None:
            return None
        config = json.loads((folder / place / "config.json").read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{folder} does not say how to pool: {error!r}", fix="Fetch the model again."
        ) from error
    modes = [name for name in _POOLINGS if config.get(f"pooling_mode_{name}_tokens")]
    modes += [name for name in _POOLINGS if config.get(f"pooling_mode_{name}")]
    if len(modes) != 1:
        raise RequestError(
            "This model's embeddings are pooled in a way that this engine does not have.",
            fix="Choose a model that pools by mean or by last token.",
        )
    return _POOLINGS[modes[0]]


def vector(parts: Sequence[PromptPart]) -> Vector:
    """The unit vector of one text. A sum has the direction of the mean."""
    found = [np.frombuffer(part.hidden, np.float32) for part in parts if part.hidden]
    pooled = np.sum(found, axis=0)
    return pooled / max(float(np.linalg.norm(pooled)), 1e-12)


def written(value: Vector, encoding: str) -> list[float] | str:
    """As OpenAI's API gives it: numbers, or base64 of little-endian float32."""
    if encoding == "base64":
        return base64.b64encode(value.astype("<f4").tobytes()).decode()
    return value.tolist()


def answer(
    vectors: Sequence[Vector], *, encoding: str, model: str, num_tokens: int
) -> dict[str, Any]:
    """The body of /v1/embeddings."""
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": written(value, encoding)}
            for index, value in enumerate(vectors)
        ],
        "model": model,
        "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
    }
