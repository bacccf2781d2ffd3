"""`python -m engine.model.convert GGUF DEST`: a GGUF file becomes a folder the engine can load.

DEST gets config.json, model.safetensors, tokenizer.json, the chat template and generation_config,
all in one rename, so that a folder that exists is whole. Standard output carries one JSON object a
line: `{"stage": "convert", "progress": 0.4, "detail": "…"}` and last `{"path": …}` or
`{"error": {"code", "message", "fix"}}` (exit code 2).

Weights are stored as bfloat16. Float16 is closer to the dequantized values (demo model: KL 3e-6
against 1e-4 for bfloat16, which chooses the same token in 99.7 % of positions), but both errors are
far below that of the 4-bit file itself, and a GPU computes in the type stored here: models trained
in bfloat16 have activations beyond float16's 65,504.
"""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING

from engine import logs
from engine.errors import ModelError, UnsupportedModel

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger("engine.convert")

Report = Callable[[float, str], None]

_MAGIC = b"GGUF"
_SPARE_BYTES = 64 * 2**20
"""Room left on the disk beside the weights: tokenizer, config, whoever else writes."""


class ConversionError(ModelError):
    """The file cannot be converted, or the result cannot be stored."""


def convert(gguf: Path, dest: Path, report: Report) -> Path:
    """Write the folder `dest` and give it back. report: called with progress 0 … 1 and words.

    Raises ConversionError or UnsupportedModel; `dest` then does not exist.
    """
    _check_paths(gguf, dest)
    partial = dest.with_name(f".{dest.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        _write(gguf, partial, report)
        partial.rename(dest)
    except OSError as error:
        raise ConversionError(
            f"{dest} could not be written: {error.strerror or error}.",
            fix="Free space on the disk or choose another folder.",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    report(1.0, "Converted")
    return dest


def _check_paths(gguf: Path, dest: Path) -> None:
    if not gguf.is_file():
        raise ConversionError(f"{gguf} is not a file.", fix="Give the path of a .gguf file.")
    with gguf.open("rb") as file:
        magic = file.read(len(_MAGIC))
    if magic != _MAGIC:
        raise ConversionError(
            f"{gguf.name} begins with {magic!r}, a GGUF file begins with {_MAGIC!r}.",
            fix="Fetch the file again.",
        )
    if dest.exists():
        raise ConversionError(f"{dest} exists already.", fix="Use it, or remove it first.")


def _write(gguf: Path, folder: Path, report: Report) -> None:
    """Fill `folder`. transformers reads the metadata once for each part, 1-3 s each."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    location, name = str(gguf.parent), gguf.name
    report(0.05, "Reading the architecture")
    try:
        config = AutoConfig.from_pretrained(location, gguf_file=name)
    except ValueError as error:
        raise UnsupportedModel(
            f"{name} cannot be converted: {error}",
            fix="Choose a model in safetensors format.",
        ) from error
    report(0.2, "Reading the tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(location, gguf_file=name)
    _save_tokenizer(tokenizer, config, folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    _check_space(folder, 2 * model.num_parameters())
    report(0.4, f"Dequantizing {model.num_parameters() / 1e6:.0f} million weights")
    state = _weights(gguf, model)
    report(0.8, "Writing the weights")
    model.config.architectures = [type(model).__name__]
    model.save_pretrained(folder, state_dict=state)
    for file in folder.iterdir():
        file.chmod(0o644)


def _save_tokenizer(
    tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, folder: Path
) -> None:
    """Store it with the special tokens that the file names (transformers 5.17 takes others)."""
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        token_id = getattr(config, name + "_id", None)
        if isinstance(token_id, int):
            setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(token_id))
    tokenizer.clean_up_tokenization_spaces = False
    tokenizer.model_max_length = config.max_position_embeddings
    tokenizer.save_pretrained(folder)


def _check_space(folder: Path, weight_bytes: int) -> None:
    needed, free = weight_bytes + _SPARE_BYTES, shutil.disk_usage(folder).free
    if free < needed:
        raise ConversionError(
            f"The converted model takes {needed / 2**30:.2f} GiB; "
            f"{folder.parent} has {free / 2**30:.2f} GiB free.",
            fix="Free space on the disk or choose another folder.",
        )


def _weights(gguf: Path, model: PreTrainedModel) -> dict[str, Tensor]:
    """Every weight in bfloat16 under the model's own names. `model` may be on the meta device.

    Calls the loader below `from_pretrained`, which would ask for the accelerate package. Raises
    UnsupportedModel when a parameter of the model is not in the file.
    """
    import torch
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    with redirect_stderr(io.StringIO()):  # its progress bar knows no other way to be quiet
        loaded = load_gguf_checkpoint(str(gguf), True, model, torch.bfloat16)
    state: dict[str, Tensor] = loaded["tensors"]
    tied: set[str] = set(getattr(model, "all_tied_weights_keys", ()))
    missing = [n for n, _ in model.named_parameters() if n not in state and n not in tied]
    if missing:
        raise UnsupportedModel(
            f"{gguf.name} lacks {len(missing)} weights of {type(model).__name__}, "
            f"the first is {missing[0]}.",
            fix="Choose a model in safetensors format.",
        )
    return state


def main(argv: list[str]) -> int:
    """Run the command; gives the exit code."""
    if len(argv) != 2:
        sys.stderr.write("usage: python -m engine.model.convert GGUF DEST\n")
        return 2
    try:
        path = convert(Path(argv[0]), Path(argv[1]), _print_progress)
    except Exception as error:
        if not isinstance(error, ModelError):
            logger.exception("The conversion failed")
            error = ConversionError(
                f"{Path(argv[0]).name} cannot be converted: {error}",
                fix="Fetch the file again, or choose a model in safetensors format.",
            )
        values = {"code": type(error).__name__, "message": error.message, "fix": error.fix}
        _print({"error": values})
        logs.fatal(error)
        return 2
    _print({"path": str(path)})
    return 0


def _print_progress(progress: float, detail: str) -> None:
    _print({"stage": "convert", "progress": progress, "detail": detail})


def _print(line: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    logs.setup()
    sys.exit(main(sys.argv[1:]))
