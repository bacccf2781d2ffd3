"""How models write tool calls: one row of data a family, which is read, streamed and enforced.

    auto        the model decides; what it writes between the markers is read by `api/calls`
    required    a grammar made of the same row lets it write nothing but calls
    a name      the same, exactly one call of that function

`{object}` is `{"name": …, "arguments": …}`, `{arguments}` an object alone, `{pairs}` one pair of
markers for each argument. Sources: the chat templates of the named models.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from engine.structured import GrammarError, fixed_text, json_rule, literal

Fixed = Callable[[str], str]
"""Fixed text as a rule's right side."""


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """One family's way.

    begin, end: where a unit of calls begins and ends in the text. Without `end` it goes on to the
    end of the answer; without `begin` it is the whole answer, if that begins like a call.
    call: one call inside the unit. separator: between two calls, or between two units of one call
    each (`is_unit`). brackets: around all calls of a unit. pair: one argument of `{pairs}`.
    signs: texts of a chat template that tell that this is its family; the first row that has all of
    its signs there is taken.
    """

    name: str
    call: str
    begin: str = ""
    end: str = ""
    separator: str = ""
    is_unit: bool = False
    brackets: tuple[str, str] = ("", "")
    pair: str = ""
    arguments_key: str = "arguments"
    call_id: str = ""
    signs: tuple[str, ...] = ()

    @property
    def markers(self) -> str:
        """All fixed text, in which special tokens may stand."""
        return self.begin + self.call + self.call_id + self.pair + self.end


FORMATS: tuple[ToolFormat, ...] = (
    ToolFormat(
        "qwen3-coder",
        begin="<tool_call>",
        call="\n<function={name}>\n{pairs}</function>\n",
        pair="<parameter={key}>\n{value}\n</parameter>\n",
        end="</tool_call>",
        separator="\n",
        is_unit=True,
        signs=("<tool_call>", "<function="),
    ),
    ToolFormat(
        "glm4.5",
        begin="<tool_call>",
        call="{name}\n{pairs}",
        pair="<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n",
        end="</tool_call>",
        separator="\n",
        is_unit=True,
        signs=("<tool_call>", "<arg_key>"),
    ),
    ToolFormat(
        "hermes",
        begin="<tool_call>",
        call="\n{object}\n",
        end="</tool_call>",
        separator="\n",
        is_unit=True,
        signs=("<tool_call>",),
    ),
    ToolFormat(
        "mistral-named",
        begin="[TOOL_CALLS]",
        call="{name}[ARGS]{arguments}",
        call_id="[CALL_ID]",
        is_unit=True,
        signs=("[TOOL_CALLS]", "[ARGS]"),
    ),
    ToolFormat(
        "mistral",
        begin="[TOOL_CALLS]",
        call="{object}",
        separator=", ",
        brackets=("[", "]"),
        signs=("[TOOL_CALLS]",),
    ),
    ToolFormat(
        "deepseek-v3",
        begin="<｜tool▁calls▁begin｜>",
        call=(
            "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{arguments}\n```"
            "<｜tool▁call▁end｜>"
        ),
        end="<｜tool▁calls▁end｜>",
        separator="\n",
        signs=("<｜tool▁calls▁begin｜>", "```json"),
    ),
    ToolFormat(
        "deepseek-v3.1",
        begin="<｜tool▁calls▁begin｜>",
        call="<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{arguments}<｜tool▁call▁end｜>",
        end="<｜tool▁calls▁end｜>",
        signs=("<｜tool▁calls▁begin｜>",),
    ),
    ToolFormat(
        "llama3-json",
        call="{object}",
        separator="; ",
        arguments_key="parameters",
        signs=("ipython", '"parameters"'),
    ),
    ToolFormat("glm4", call="{name}\n{arguments}", signs=("tools", "<|observation|>")),
)
"""The first row whose signs fit is taken, so a row with more signs stands before one with fewer."""

NAMES = tuple(sorted(row.name for row in FORMATS))
FALLBACK = "hermes"
"""For models whose template knows no tools: they are told in words to write calls this way."""

INSTRUCTIONS = """You may call functions. These are the functions, each as a JSON schema:
<tools>
{tools}
</tools>
To call one, answer only with its name and arguments as JSON, between these markers:
<tool_call>
{{"name": "the function's name", "arguments": {{"an argument": "its value"}}}}
</tool_call>"""


def format_named(name: str) -> ToolFormat:
    return next(row for row in FORMATS if row.name == name)


def format_of(template: str) -> ToolFormat | None:
    """The family whose signs a chat template shows; None where it shows none."""
    return next((row for row in FORMATS if all(sign in template for sign in row.signs)), None)


@dataclass(frozen=True, slots=True)
class Function:
    """A function that the model may call; parameters is its JSON schema."""

    name: str
    parameters: Mapping[str, Any]

    def type_of(self, argument: str) -> Any:
        """The schema's word for an argument's type, None where it says none."""
        schema = self.parameters.get("properties", {}).get(argument)
        return schema.get("type") if isinstance(schema, dict) else None


def calls_grammar(
    row: ToolFormat,
    functions: Sequence[Function],
    *,
    is_single: bool,
    special_ids: Mapping[str, int],
) -> str:
    """A grammar that allows calls of these functions and nothing else.

    special_ids: ids of special tokens by their text, which a grammar must name by id.
    """
    fixed = partial(fixed_text, special_ids=special_ids)
    call = " | ".join(f"call_{i}" for i in range(len(functions)))
    rules = [_call_rules(row, f, i, fixed) for i, f in enumerate(functions)]
    separator = fixed(row.separator)
    opened, closed = fixed(row.begin + row.brackets[0]), fixed(row.brackets[1] + row.end)
    unit = "call" if not row.is_unit else f"{opened} call {closed}"
    several = unit if is_single else f"{unit} ({separator} {unit})*"
    start = several if row.is_unit else f"{opened} {several} {closed}"
    return "\n".join([f"start: {start}", f"call: {call}", *rules])


def _call_rules(row: ToolFormat, function: Function, index: int, fixed: Fixed) -> str:
    parts: list[str] = []
    rules: list[str] = []
    for piece in re.split(r"(\{(?:object|name|arguments|pairs)\})", row.call):
        match piece:
            case "{object}":
                parts.append(f"object_{index}")
                rules.append(f"object_{index}: " + json_rule(_object_schema(row, function)))
            case "{arguments}":
                parts.append(f"arguments_{index}")
                rules.append(f"arguments_{index}: " + json_rule(function.parameters))
            case "{pairs}":
                for number, (key, schema, is_needed) in enumerate(_arguments(function)):
                    rule = f"pair_{index}_{number}"
                    parts.append(rule if is_needed else f"{rule}?")
                    rules += _pair_rules(row, key, schema, rule, fixed)
            case "{name}":
                parts.append(literal(function.name))
            case _:
                parts.append(fixed(piece))
    return "\n".join([f"call_{index}: {' '.join(parts)}", *rules])


def _object_schema(row: ToolFormat, function: Function) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": function.name}, row.arguments_key: function.parameters},
        "required": ["name", row.arguments_key],
        "additionalProperties": False,
    }


def _arguments(function: Function) -> list[tuple[str, Any, bool]]:
    """Each argument with its schema, and whether it must be there."""
    required = function.parameters.get("required", [])
    properties = function.parameters.get("properties", {})
    return [(key, schema, key in required) for key, schema in properties.items()]


def _pair_rules(row: ToolFormat, key: str, schema: Any, rule: str, fixed: Fixed) -> list[str]:
    """Texts stand as they are, up to the next marker; all else is JSON."""
    before, after = row.pair.replace("{key}", key).split("{value}")
    schema = schema if isinstance(schema, dict) else {}
    if _is_texts(schema.get("enum")):
        value = " | ".join(literal(choice) for choice in schema["enum"])
    elif schema.get("type") == "string":
        text = f"text_{rule}[suffix={literal(after)}]: /(?s:.{_length(row, key, schema)})/"
        return [f"{rule}: {fixed(before)} text_{rule}", text]
    else:
        value = json_rule(schema)
    pair = f"{rule}: {fixed(before)} value_{rule} {fixed(after)}"
    return [pair, f"value_{rule}: {value}"]


def _length(row: ToolFormat, key: str, schema: Mapping[str, Any]) -> str:
    """A text's length as a pattern's count. Raises GrammarError for what only JSON texts can."""
    if unknown := sorted(schema.keys() & {"pattern", "format", "const"}):
        raise GrammarError(
            f"{unknown[0]} of the argument {key} cannot be enforced in the form {row.name}.",
            param="tools",
            code="unsupported_schema",
        )
    least, most = schema.get("minLength", 0), schema.get("maxLength", "")
    return f"{{{least},{most}}}"


def _is_texts(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(v, str) for v in values)


def instructions(tools: Sequence[Mapping[str, Any]]) -> str:
    """What a model is told whose template has no place for tools."""
    lines = [json.dumps(tool["function"], ensure_ascii=False) for tool in tools]
    return INSTRUCTIONS.format(tools="\n".join(lines))
