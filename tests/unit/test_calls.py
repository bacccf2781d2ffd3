"""Tool calls of every family, read from text in pieces and enforced by a grammar."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from engine.api.calls import Call, CallReader
from engine.api.tools import (
    FORMATS,
    Function,
    ToolFormat,
    calls_grammar,
    format_named,
    format_of,
)
from engine.structured import GrammarError, LlguidanceCompiler, TokenizerText, check, words_of
from tests.contract.tiny_tokenizer import BOS, BOS_ID, EOS_ID, VOCAB_SIZE, tiny_tokenizer

WEATHER = Function(
    "get_weather",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 8},
            "days": {"type": "integer", "minimum": 1, "maximum": 20},
            "unit": {"enum": ["C", "F"]},
        },
        "required": ["city", "days"],
        "additionalProperties": False,
    },
)
PING = Function("ping", {"type": "object", "properties": {}, "additionalProperties": False})
FUNCTIONS = (WEATHER, PING)
ARGUMENTS = {"city": "Zürich 🗻", "days": 3}
AS_JSON = json.dumps(ARGUMENTS, ensure_ascii=False)

ONE_CALL = {
    "hermes": '<tool_call>\n{"name": "get_weather", "arguments": %s}\n</tool_call>',
    "llama3-json": '{"name": "get_weather", "parameters": %s}',
    "mistral": '[TOOL_CALLS][{"name": "get_weather", "arguments": %s}]',
    "mistral-named": "[TOOL_CALLS]get_weather[ARGS]%s",
    "glm4": "get_weather\n%s",
    "glm4.5": "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Zürich 🗻</arg_value>\n"
    "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>",
    "qwen3-coder": "<tool_call>\n<function=get_weather>\n"
    "<parameter=city>\nZürich 🗻\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
    "</function>\n</tool_call>",
    "deepseek-v3": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n"
    "```json\n%s\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "deepseek-v3.1": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>%s"
    "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
}
TWO_CALLS = {
    "hermes": '{0}\n<tool_call>\n{{"name": "ping", "arguments": {{}}}}\n</tool_call>',
    "llama3-json": '{0}; {{"name": "ping", "parameters": {{}}}}',
    "mistral-named": "{0}[TOOL_CALLS]ping[ARGS]{{}}",
    "glm4.5": "{0}\n<tool_call>ping\n</tool_call>",
    "qwen3-coder": "{0}\n<tool_call>\n<function=ping>\n</function>\n</tool_call>",
}


def _written(name: str) -> str:
    text = ONE_CALL[name]
    return text % AS_JSON if "%s" in text else text


def _read(row: ToolFormat, text: str, size: int = 1, **more: Any) -> tuple[str, list[Call]]:
    """The content and the calls of a text that arrives in pieces."""
    reader = CallReader(row, FUNCTIONS, **more)
    parts: list[str | Call] = []
    for at in range(0, len(text), size):
        parts += reader.push(text[at : at + size])
    parts += reader.push("", is_last=True)
    content = "".join(part for part in parts if isinstance(part, str))
    return content, [part for part in parts if isinstance(part, Call)]


def test_every_family_is_tested() -> None:
    assert set(ONE_CALL) == {row.name for row in FORMATS}


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize("name", sorted(ONE_CALL))
def test_a_call_is_read_however_its_text_arrives(name: str, size: int) -> None:
    content, (call,) = _read(format_named(name), _written(name), size)
    assert (content, call.name, json.loads(call.arguments)) == ("", "get_weather", ARGUMENTS)


@pytest.mark.parametrize("name", sorted(TWO_CALLS))
def test_several_calls_are_read_one_by_one(name: str) -> None:
    content, calls = _read(format_named(name), TWO_CALLS[name].format(_written(name)))
    assert content == ""
    assert [call.name for call in calls] == ["get_weather", "ping"]
    assert calls[1].arguments == "{}"


def test_an_id_that_a_model_gives_its_call_is_passed_over() -> None:
    text = "[TOOL_CALLS]ping[CALL_ID]a1B2c3D4e[ARGS]{}"
    assert _read(format_named("mistral-named"), text) == ("", [Call("ping", "{}")])


def test_lists_and_sections_hold_several_calls() -> None:
    text = '[TOOL_CALLS] [{"name": "ping", "arguments": {}}, {"name": "ping", "arguments": {}}]'
    assert len(_read(format_named("mistral"), text)[1]) == 2
    one = "<｜tool▁call▁begin｜>ping<｜tool▁sep｜>{}<｜tool▁call▁end｜>"
    text = f"<｜tool▁calls▁begin｜>{one}{one}<｜tool▁calls▁end｜>"
    assert len(_read(format_named("deepseek-v3.1"), text)[1]) == 2


@pytest.mark.parametrize("name", [row.name for row in FORMATS if row.begin])
def test_what_is_said_before_a_call_is_content(name: str) -> None:
    content, calls = _read(format_named(name), "Let me see: 1 < 2.\n\n" + _written(name))
    assert (content, len(calls)) == ("Let me see: 1 < 2.", 1)


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("name", sorted(ONE_CALL))
def test_a_call_that_is_cut_off_stays_content_to_the_letter(name: str, size: int) -> None:
    row = format_named(name)
    written = _written(name)
    for stop in range(1, len(written)):
        content, calls = _read(row, written[:stop], size)
        if not calls:  # a missing end marker alone loses nothing
            assert content == written[:stop]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", '<tool_call>\n{"name": "get_weather", "arguments": "x"}\n</tool_call> ok'),
        ("hermes", "<tool_call>\nnot json\n</tool_call>\n"),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"x": NaN}}</tool_call>'),
        ("hermes", '<tool_call>{"arguments": {}}</tool_call>'),
        ("hermes", "<tool_call></tool_call>"),
        ("hermes", "a <tool_cal> b"),
        ("llama3-json", '{"city": "Bern"}'),
        ("llama3-json", '{"name": "elsewhere", "parameters": {}}'),
        ("llama3-json", 'Here: {"name": "ping", "parameters": {}}'),
        ("glm4", "get_weather is what I would call."),
        ("glm4", "get_weather\nis a function"),
        ("glm4.5", "<tool_call>get_weather\n<arg_key>city</arg_key>oops</tool_call>"),
        ("mistral", "[TOOL_CALLS] nothing"),
        ("deepseek-v3", "<｜tool▁calls▁begin｜>hm<｜tool▁calls▁end｜> sorry"),
    ],
)
def test_what_is_no_call_stays_content_to_the_letter(name: str, text: str) -> None:
    assert _read(format_named(name), text) == (text, [])


@given(
    text=st.text(alphabet='<>/_tol cal{}"\n🗻', max_size=60),
    sizes=st.lists(st.integers(1, 9), min_size=1),
    name=st.sampled_from(sorted(ONE_CALL)),
)
def test_nothing_is_lost_of_any_text(text: str, sizes: list[int], name: str) -> None:
    reader = CallReader(format_named(name), FUNCTIONS)
    parts: list[str | Call] = []
    at = turn = 0
    while at < len(text):
        size = sizes[turn % len(sizes)]
        parts += reader.push(text[at : at + size])
        at, turn = at + size, turn + 1
    parts += reader.push("", is_last=True)
    assert all(isinstance(part, str) for part in parts)
    assert "".join(map(str, parts)) == text


def test_content_does_not_wait_for_what_cannot_begin_a_call() -> None:
    reader = CallReader(format_named("hermes"), FUNCTIONS)
    assert reader.push("Hello <") == ["Hello"]
    assert reader.push("b> you") == [" <b> you"]
    bare = CallReader(format_named("glm4"), FUNCTIONS)
    assert bare.push("gone") == ["gone"]


def test_only_the_first_call_counts_where_one_is_allowed() -> None:
    row = format_named("hermes")
    text = TWO_CALLS["hermes"].format(_written("hermes"))
    content, calls = _read(row, text, is_single=True)
    assert (content, [call.name for call in calls]) == ("", ["get_weather"])


def test_an_argument_of_a_text_type_stays_text() -> None:
    text = (
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>12</arg_value>\n"
        "<arg_key>days</arg_key>\n<arg_value>12</arg_value>\n</tool_call>"
    )
    _, (call,) = _read(format_named("glm4.5"), text)
    assert json.loads(call.arguments) == {"city": "12", "days": 12}


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{{ tools }}<tool_call>\\n", "hermes"),
        ("<tool_call>{name}\\n<arg_key>", "glm4.5"),
        ("<tool_call>\\n<function=name>", "qwen3-coder"),
        ("[AVAILABLE_TOOLS] [TOOL_CALLS] [", "mistral"),
        ("[TOOL_CALLS]name[ARGS]{", "mistral-named"),
        ("<｜tool▁calls▁begin｜> function ```json", "deepseek-v3"),
        ("<｜tool▁calls▁begin｜>", "deepseek-v3.1"),
        ('Environment: ipython {"name": n, "parameters": p}', "llama3-json"),
        ("{% if tools %}<|observation|>", "glm4"),
        ("{{ messages }}", None),
    ],
)
def test_the_family_is_told_by_the_chat_template(template: str, name: str | None) -> None:
    row = format_of(template)
    assert (row and row.name) == name


# --- enforced -------------------------------------------------------------------------------------


def _random_answer(grammar: str, seed: int) -> list[int]:
    """Tokens drawn at random from what the grammar allows; ends as soon as it may, mostly."""
    compiler = LlguidanceCompiler(
        lambda: TokenizerText(tiny_tokenizer().backend_tokenizer.to_str(), EOS_ID, VOCAB_SIZE),
        VOCAB_SIZE,
    )
    matcher = compiler.compile(grammar)
    generator = torch.Generator().manual_seed(seed)
    mask = np.zeros(words_of(VOCAB_SIZE), np.int32)
    ids: list[int] = []
    for _ in range(2000):
        may_end = matcher.fill(mask)
        allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
        if may_end and (not len(allowed) or torch.rand((), generator=generator) < 0.7):
            return ids
        ids.append(int(allowed[int(torch.randint(len(allowed), (), generator=generator))]))
        matcher.accept(ids[-1])
    raise AssertionError(f"no end: {bytes(i for i in ids if i < 256)!r}")


@pytest.mark.parametrize("is_single", [True, False])
@pytest.mark.parametrize("name", sorted(ONE_CALL))
def test_a_required_call_is_one_that_is_read_and_fits_its_schema(
    name: str, is_single: bool
) -> None:
    row = format_named(name)
    grammar = calls_grammar(row, FUNCTIONS, is_single=is_single, special_ids={})
    check(grammar, param="tools")
    seen = set()
    for seed in range(6):
        text = bytes(_random_answer(grammar, seed)).decode()
        content, calls = _read(row, text)
        assert content == "", text
        assert calls, text
        assert len(calls) == 1 or not is_single
        for call in calls:
            seen.add(call.name)
            function = next(f for f in FUNCTIONS if f.name == call.name)
            Draft202012Validator(function.parameters).validate(json.loads(call.arguments))
    assert seen == {"get_weather", "ping"}


@pytest.mark.parametrize("name", sorted(ONE_CALL))
def test_what_the_families_write_is_what_the_grammar_allows(name: str) -> None:
    grammar = calls_grammar(format_named(name), FUNCTIONS, is_single=True, special_ids={})
    compiler = LlguidanceCompiler(
        lambda: TokenizerText(tiny_tokenizer().backend_tokenizer.to_str(), EOS_ID, VOCAB_SIZE),
        VOCAB_SIZE,
    )
    matcher = compiler.compile(grammar)
    for byte in _written(name).encode():
        matcher.accept(byte)
    assert matcher.fill(np.zeros(words_of(VOCAB_SIZE), np.int32))


def test_what_a_form_without_quotes_cannot_enforce_is_named() -> None:
    schema = {"properties": {"zip": {"type": "string", "pattern": "^[0-9]{4}$"}}}
    with pytest.raises(GrammarError, match="pattern of the argument zip"):
        calls_grammar(
            format_named("glm4.5"), [Function("f", schema)], is_single=True, special_ids={}
        )


def test_a_marker_that_is_a_special_token_is_named_by_its_id() -> None:
    row = ToolFormat("special", begin=BOS, call="{object}", end=BOS, separator="\n", is_unit=True)
    grammar = calls_grammar(row, [PING], is_single=True, special_ids={BOS: BOS_ID})
    ids = _random_answer(grammar, 0)
    assert (ids[0], ids[-1], ids.count(BOS_ID)) == (BOS_ID, BOS_ID, 2)
