"""The tokenizer of a model's folder: both processes read it, neither needs torch for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.errors import ModelError, RequestError
from engine.structured import TokenizerText


def load_tokenizer(folder: Path) -> Any:
    """transformers' tokenizer object. Raises ModelError."""
    try:
        if (folder / "tokenizer.json").is_file():
            from transformers import PreTrainedTokenizerFast  # 0.6 s of import

            return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        from transformers import AutoTokenizer  # 2 s: imports torch too

        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise ModelError(
            f"{folder} has no tokenizer that can be read: {error}",
            fix="Fetch the model again, with tokenizer.json.",
        ) from error


def grammar_tokenizer(folder: Path) -> TokenizerText:
    """What `LlguidanceCompiler` reads. Raises RequestError where the tokenizer has no such form."""
    tokenizer = load_tokenizer(folder)
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        raise RequestError(
            "This model's tokenizer cannot follow grammars.",
            fix="Leave out response_format and a required tool_choice.",
        )
    fast.no_padding()
    fast.no_truncation()
    end_id = tokenizer.eos_token_id
    size = len(tokenizer)
    return TokenizerText(fast.to_str(), size - 1 if end_id is None else end_id, size)
