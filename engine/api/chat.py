"""The model's tokenizer as the API needs it: chat template, encode, decode, single tokens' text.

Loaded without torch where the folder has a tokenizer.json and transformers lets us (5.23 does, 5.17
imports torch all the same): 0.6 s instead of 2 s, and 200 MB less. `load` blocks, so it runs in a
thread while /health already answers.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from engine.errors import ModelError, RequestError
from engine.model.tokenizer import load_tokenizer

_SAMPLING_DEFAULTS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizer with what its folder says about ending and sampling.

    decode: the text of tokens, without special ones.
    stop_ids: tokens that end an answer. sampling_defaults: the model maker's values from
    generation_config.json, for what a request leaves open.
    """

    tokenizer: Any
    decode: Callable[[list[int]], str]
    stop_ids: tuple[int, ...]
    sampling_defaults: Mapping[str, float]

    @property
    def size(self) -> int:
        return len(self.tokenizer)

    @property
    def has_chat_template(self) -> bool:
        return bool(self.tokenizer.chat_template)

    def encode(self, text: str) -> list[int]:
        """A plain text with the model's own begin token, if it has one."""
        return self.tokenizer(text)["input_ids"]

    @property
    def template_text(self) -> str:
        """The chat template's source; all of them where the model has several."""
        template = self.tokenizer.chat_template or ""
        return template if isinstance(template, str) else "\n".join(template.values())

    def special_ids(self) -> dict[str, int]:
        """Special tokens by their text."""
        added = self.tokenizer.added_tokens_decoder
        return {token.content: token_id for token_id, token in added.items() if token.special}

    def keeping(self, texts: Collection[str]) -> Vocabulary:
        """The same, but its text keeps these special tokens."""
        if not texts:
            return self
        dropped = {i for text, i in self.special_ids().items() if text not in texts}

        def decode(ids: list[int]) -> str:
            return self.text_of([i for i in ids if i not in dropped])

        return replace(self, decode=decode)

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        template_values: Mapping[str, Any],
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> list[int]:
        """A conversation up to where the assistant begins.

        Raises RequestError where the model has no template or the template refuses the messages.
        """
        if not self.has_chat_template:
            raise RequestError(
                "This model has no chat template.", fix="Use /v1/completions.", param="messages"
            )
        reserved = inspect.signature(self.tokenizer.apply_chat_template).parameters
        if taken := sorted(reserved.keys() & template_values.keys()):
            raise RequestError(
                f"chat_template_kwargs cannot set {', '.join(taken)}.", param="chat_template_kwargs"
            )
        values = {**template_values, **({"tools": list(tools)} if tools else {})}
        try:
            text = self._render(messages, values)
        except (TemplateError, TypeError, ValueError) as error:
            raise RequestError(
                f"The model's chat template refuses these messages: {error}", param="messages"
            ) from error
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _render(self, messages: Sequence[Mapping[str, Any]], values: Mapping[str, Any]) -> str:
        """Some templates (DeepSeek's) add a call's arguments to a text, and so need them as one."""
        render = partial(
            self.tokenizer.apply_chat_template, tokenize=False, add_generation_prompt=True, **values
        )
        try:
            return render(list(messages))
        except TypeError:
            if not any("tool_calls" in message for message in messages):
                raise
            return render([_with_text_arguments(message) for message in messages])

    def text_of(self, token_ids: list[int]) -> str:
        """The text of tokens, special ones too."""
        return self.tokenizer.decode(token_ids, skip_special_tokens=False)

    def token_text(self, token_id: int) -> tuple[str, list[int]]:
        """One token alone, special or not: its text and its bytes, for logprobs.

        A token that is part of a character is written `bytes:\\xe4\\xb8`, as OpenAI does.
        """
        raw = self._token_bytes(token_id)
        try:
            return raw.decode(), list(raw)
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw), list(raw)

    def _token_bytes(self, token_id: int) -> bytes:
        text: str = self.tokenizer.decode([token_id])
        token = self.tokenizer.convert_ids_to_tokens(token_id)
        if "\ufffd" not in text or token is None:
            return text.encode()
        if token.startswith("<0x") and token.endswith(">"):
            return bytes([int(token[3:-1], 16)])
        if all(char in _BYTE_OF_CHAR for char in token):
            return bytes(_BYTE_OF_CHAR[char] for char in token)
        return text.encode()


def _with_text_arguments(message: Mapping[str, Any]) -> dict[str, Any]:
    calls = [
        {**call, "function": {**call["function"], "arguments": _as_text(call["function"])}}
        for call in message.get("tool_calls", [])
    ]
    return {**message, **({"tool_calls": calls} if calls else {})}


def _as_text(function: Mapping[str, Any]) -> str:
    arguments = function["arguments"]
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _byte_of_char() -> dict[str, int]:
    """Byte-level BPE writes each byte as a printable character; this is the way back.

    Source: GPT-2's `bytes_to_unicode`.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


_BYTE_OF_CHAR = _byte_of_char()


def load(folder: Path) -> Vocabulary:
    """Read the tokenizer of a model's folder. Raises ModelError."""
    config = _read_json(folder / "config.json")
    if not config:
        raise ModelError(
            f"{folder} has no config.json.", fix="Give the folder of a model in safetensors format."
        )
    generation = _read_json(folder / "generation_config.json")
    tokenizer = load_tokenizer(folder)
    stops = {*_ids(generation), *([] if _ids(generation) else _ids(config))}
    if tokenizer.eos_token_id is not None:
        stops.add(tokenizer.eos_token_id)
    defaults = {k: float(generation[k]) for k in _SAMPLING_DEFAULTS if _is_number(generation, k)}
    return Vocabulary(tokenizer, _decoder(tokenizer), tuple(sorted(stops)), defaults)


def _decoder(tokenizer: Any) -> Callable[[list[int]], str]:
    """The shortest way to text: a step's tokens cost 5 µs in the Rust library itself, 19 µs through
    transformers, and this is paid for every token of every stream."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None or getattr(tokenizer, "clean_up_tokenization_spaces", False):
        return partial(tokenizer.decode, skip_special_tokens=True)
    return partial(fast.decode, skip_special_tokens=True)


def _read_json(path: Path) -> dict[str, Any]:
    """The file's object; empty where there is no file. Raises ModelError for broken JSON."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}", fix="Fetch the model again.") from error


def _ids(config: Mapping[str, Any]) -> list[int]:
    value = config.get("eos_token_id")
    if value is None:
        return []
    return [value] if isinstance(value, int) else list(value)


def _is_number(values: Mapping[str, Any], name: str) -> bool:
    return isinstance(values.get(name), int | float)
