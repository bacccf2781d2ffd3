"""What transformers says about a config: parameters, Linear weights, and the defaults filled in.

For families that `families.py` has no row for. The engine's command `python -m engine.model.count`
builds the model without memory in a process of its own, so the panel never imports torch. Measured
on 2 cores: 4 s, nearly all of it the import of torch and transformers.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from panel.errors import ModelFolderError

TIMEOUT_S = 120.0


def ask_transformers(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Count this config's parameters in another process.

    Gives {"num_params", "tied", "linears": [[out, in, count]…], "config": text config completed}.
    Raises ModelFolderError where transformers does not know the architecture.
    """
    command = [sys.executable, "-m", "engine.model.count"]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(dict(config)),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise ModelFolderError(
            f"Counting the parameters of {name} took more than {TIMEOUT_S:.0f} s.",
            fix="Give a folder with its safetensors files; their headers are read instead.",
        ) from None
    answer = _last_json(done.stdout)
    if done.returncode or answer is None:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1].strip()[:160]
        raise ModelFolderError(
            f"transformers cannot build {name} (model type {config.get('model_type')!r}): {reason}",
            fix="Check config.json, or choose a model whose architecture transformers knows.",
        )
    return answer


def _last_json(text: str) -> dict[str, Any] | None:
    lines = text.strip().splitlines()
    return json.loads(lines[-1]) if lines and lines[-1].startswith("{") else None
