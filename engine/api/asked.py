"""What a chat request asks of its answer: tools, JSON, thoughts apart. Refuses what cannot be.

ChatRequest + Dialect ─► Asked ─► messages for the template
                               ─► a grammar, where the answer must follow one
                               ─► a reader, where text is more than content
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from engine.api import reasoning
from engine.api.conversation import ChosenTool, ResponseFormat, Tool
from engine.api.dialect import Dialect, told
from engine.api.protocol import ChatRequest
from engine.api.reader import AnswerReader
from engine.api.reasoning import Start
from engine.api.tools import Function, calls_grammar
from engine.errors import RequestError
from engine.structured import check, json_object_grammar, json_schema_grammar

_NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class Asked:
    """functions: those that may be called; none where calls are not read.

    must_call: the answer is nothing but calls. is_single: one call at the most.
    """

    dialect: Dialect
    tools: Sequence[Tool]
    functions: Sequence[Function]
    must_call: bool
    is_single: bool
    response_format: ResponseFormat | None

    def messages(self, body: ChatRequest) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """(messages, tools) as the chat template takes them."""
        values = [message.as_template_value() for message in body.messages]
        tools = [tool.as_template_value() for tool in self.tools] if self.functions else []
        if self.dialect.renders_tools:
            return values, tools
        return told(values, tools), []

    @property
    def is_bound(self) -> bool:
        """Whether the answer must follow a grammar."""
        asked = self.response_format
        return self.must_call or (asked is not None and asked.type != "text")

    def grammar(self, prompt_end: str) -> str:
        """What a bound answer must follow, checked. Raises RequestError, naming what is wrong."""
        grammar, param = self._grammar()
        row = self.dialect.reasoning
        if row is not None:
            start = reasoning.start_of(row, prompt_end)
            grammar = reasoning.after_thoughts(grammar, row, start, self.dialect.special_ids)
        check(grammar, param=param)
        return grammar

    def _grammar(self) -> tuple[str, str]:
        """For the answer alone; and the field that asked for it."""
        row, asked = self.dialect.tools, self.response_format
        if self.must_call:
            assert row, "asked_of refuses calls where none are read"
            made = calls_grammar(
                row,
                self.functions,
                is_single=self.is_single,
                special_ids=self.dialect.special_ids,
            )
            return made, "tools"
        if asked is None or asked.json_schema is None:
            return json_object_grammar(), "response_format"
        return json_schema_grammar(asked.json_schema.schema_ or {}), "response_format"

    def reader(self, prompt_end: str) -> Callable[[], AnswerReader] | None:
        """Makes the reader of one answer; None where all text is content."""
        row = self.dialect.reasoning
        called = self.dialect.tools if self.functions else None
        if row is None and called is None:
            return None
        start = reasoning.start_of(row, prompt_end) if row else Start.AFTER
        functions, is_single = self.functions, self.is_single
        return lambda: AnswerReader(row, start, called, functions, is_single=is_single)


def asked_of(body: ChatRequest, dialect: Dialect) -> Asked:
    """Check what is asked together. Raises RequestError for what cannot be combined."""
    tools, choice = body.tools or [], body.tool_choice or "auto"
    functions = _functions(tools)
    if not tools and choice not in ("auto", "none"):
        raise RequestError("tool_choice needs tools.", param="tool_choice")
    calls = bool(tools) and choice != "none"
    if calls and dialect.tools is None:
        raise RequestError(
            "This engine was started with --tool-parser none.",
            fix="Send no tools, or tool_choice none.",
            param="tools",
        )
    is_formed = body.response_format is not None and body.response_format.type != "text"
    if calls and is_formed:
        raise RequestError(
            "response_format cannot be combined with tools that may be called.",
            fix="Send one of them, or tool_choice none.",
            param="response_format",
        )
    if isinstance(choice, ChosenTool):
        functions = [f for f in functions if f.name == choice.function.name]
        if not functions:
            raise RequestError(
                f"tool_choice names {choice.function.name!r}, which is none of the tools.",
                param="tool_choice",
            )
    asked = Asked(
        dialect=dialect,
        tools=tools,
        functions=functions if calls else [],
        must_call=choice == "required" or isinstance(choice, ChosenTool),
        is_single=body.parallel_tool_calls is False or isinstance(choice, ChosenTool),
        response_format=body.response_format,
    )
    if asked.is_bound and body.ignore_eos:
        what = "response_format" if is_formed else "tool_choice"
        raise RequestError(f"ignore_eos cannot be combined with {what}.", param="ignore_eos")
    return asked


def _functions(tools: Sequence[Tool]) -> list[Function]:
    functions = [
        Function(tool.function.name, tool.function.parameters or _NO_PARAMETERS) for tool in tools
    ]
    names = [function.name for function in functions]
    if doubled := next((name for name in names if names.count(name) > 1), None):
        raise RequestError(f"Two tools are named {doubled!r}.", param="tools")
    return functions
