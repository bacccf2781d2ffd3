"""Prompts to token ids: short texts at once, long ones in a thread so that streams go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engine.api.chat import Vocabulary
from engine.errors import RequestError

_LONG = 8192
"""Characters from which a text goes to a thread: tokenizing them takes about 2 ms."""


async def text_ids(vocabulary: Vocabulary, text: str) -> list[int]:
    return await _run(len(text), lambda: vocabulary.encode(text))


async def prompt_ids(
    vocabulary: Vocabulary, prompt: str | list[int], *, param: str = "prompt"
) -> list[int]:
    """The ids of a text prompt; ids that a client sends itself are only checked.

    Raises RequestError for an id that is no token.
    """
    if isinstance(prompt, str):
        return await text_ids(vocabulary, prompt)
    check_ids(vocabulary, prompt, param=param)
    return prompt


def check_ids(vocabulary: Vocabulary, token_ids: Sequence[int], *, param: str) -> None:
    """Raises RequestError for an id that is no token."""
    if token_ids and max(token_ids) >= vocabulary.size:
        raise RequestError(
            f"{param} has the token id {max(token_ids)}; ids are 0 … {vocabulary.size - 1}.",
            param=param,
        )


async def chat_ids(
    vocabulary: Vocabulary,
    messages: Sequence[Mapping[str, Any]],
    template_values: Mapping[str, Any],
    tools: Sequence[Mapping[str, Any]] = (),
) -> list[int]:
    """A conversation through the model's template. Raises RequestError."""
    length = sum(len(message["content"]) for message in messages) + len(tools) * 500
    return await _run(length, lambda: vocabulary.encode_chat(messages, template_values, tools))


async def _run(length: int, encode: Callable[[], list[int]]) -> list[int]:
    return encode() if length < _LONG else await asyncio.to_thread(encode)
