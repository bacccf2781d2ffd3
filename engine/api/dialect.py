"""How one model talks: its way to call tools, its markers around thoughts, its special tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.api import reasoning, tools
from engine.api.chat import Vocabulary
from engine.api.reasoning import ReasoningFormat
from engine.api.tools import ToolFormat
from engine.config import EngineConfig


@dataclass(frozen=True, slots=True)
class Dialect:
    """tools, reasoning: None where they are switched off or the model has none.

    renders_tools: whether the chat template has a place for tools; else `told` writes them down.
    special_ids: special tokens that are markers, by their text.
    vocabulary: the tokenizer, but its text keeps these.
    """

    tools: ToolFormat | None
    reasoning: ReasoningFormat | None
    renders_tools: bool
    special_ids: Mapping[str, int]
    vocabulary: Vocabulary


def dialect_of(vocabulary: Vocabulary, config: EngineConfig) -> Dialect:
    """What the options say; where they say auto, what the chat template shows."""
    template = vocabulary.template_text
    renders_tools = bool(re.search(r"\btools\b", template))
    called = _tools(config.tool_parser, template if renders_tools else "")
    thought = _reasoning(config.reasoning_parser, template)
    markers = (called.markers if called else "") + (thought.begin + thought.end if thought else "")
    special = {text: i for text, i in vocabulary.special_ids().items() if text in markers}
    return Dialect(called, thought, renders_tools, special, vocabulary.keeping(special))


def _tools(name: str, template: str) -> ToolFormat | None:
    if name == "none":
        return None
    if not template:
        return tools.format_named(tools.FALLBACK)
    if name != "auto":
        return tools.format_named(name)
    return tools.format_of(template) or tools.format_named(tools.FALLBACK)


def _reasoning(name: str, template: str) -> ReasoningFormat | None:
    if name == "none":
        return None
    return reasoning.format_of(template) if name == "auto" else reasoning.format_named(name)


def told(
    messages: Sequence[Mapping[str, Any]], asked: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """A conversation for a template without tools: they and their calls become plain text."""
    plain = [_plain(message) for message in messages]
    if not asked:
        return plain
    words = tools.instructions(asked)
    if plain and plain[0]["role"] == "system":
        plain[0]["content"] += "\n\n" + words
        return plain
    return [{"role": "system", "content": words}, *plain]


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message["content"]
    if message["role"] == "tool":
        text = f"<tool_response>\n{content}\n</tool_response>"
        return {"role": "user", "content": text}
    calls = [call["function"] for call in message.get("tool_calls", [])]
    written = [
        f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>" for call in calls
    ]
    return {
        "role": message["role"],
        "content": "\n".join([content, *written] if content else written or [""]),
    }
