"""Tool calls, thoughts and JSON through the official client, with scripted tokens from the core."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import openai
import pytest
from tokenizers import AddedToken

from engine.api.chat import Vocabulary, load
from engine.api.tools import NAMES
from tests.contract.fake_core import Harness, Script, openai_client
from tests.contract.tiny_tokenizer import TEMPLATE, save_folder

USER: list[Any] = [{"role": "user", "content": "What is the weather?"}]
KNOWS_TOOLS = (
    "{% if tools %}<|im_start|>tools\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    + TEMPLATE.replace(
        "{{ message['content'] }}",
        "{{ message['content'] }}{% for call in message.tool_calls or [] %}"
        "[{{ call.id }} {{ call.function.name }} {{ call.function.arguments | tojson }}]"
        "{% endfor %}",
    )
)
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
PING: Any = {"type": "function", "function": {"name": "ping"}}
ARGUMENTS = {"city": "Zürich 🗻", "days": 3}
_JSON = json.dumps(ARGUMENTS, ensure_ascii=False)
_XML = "<arg_key>city</arg_key>\n<arg_value>Zürich 🗻</arg_value>\n<arg_key>days</arg_key>\n"
CALLS = {
    "hermes": '<tool_call>\n{"name": "get_weather", "arguments": ' + _JSON + "}\n</tool_call>",
    "llama3-json": '{"name": "get_weather", "parameters": ' + _JSON + "}",
    "mistral": '[TOOL_CALLS][{"name": "get_weather", "arguments": ' + _JSON + "}]",
    "mistral-named": "[TOOL_CALLS]get_weather[ARGS]" + _JSON,
    "glm4": "get_weather\n" + _JSON,
    "glm4.5": f"<tool_call>get_weather\n{_XML}<arg_value>3</arg_value>\n</tool_call>",
    "qwen3-coder": "<tool_call>\n<function=get_weather>\n<parameter=city>\nZürich 🗻\n"
    + "</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
    "deepseek-v3": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n"
    + f"```json\n{_JSON}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "deepseek-v3.1": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>"
    + f"{_JSON}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
}
BARE = ("llama3-json", "glm4")
"""Families whose answers are calls from their first word on, or are none."""

Start = Callable[..., Harness]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Gives the engine that was started with these options and this template; each starts once."""
    engines: dict[object, Harness] = {}
    with ExitStack() as stack:

        def get(template: str = KNOWS_TOOLS, **options: Any) -> Harness:
            key = (template, *sorted(options.items()))
            if key not in engines:
                folder = tmp_path_factory.mktemp("engine") / "tiny"
                vocabulary = _vocabulary(template, folder)
                harness = Harness(folder, vocabulary, options=options)
                engines[key] = stack.enter_context(harness)
                engines[key].make_ready(max_seq_length=4096)
            engines[key].call(engines[key].core.forget)
            return engines[key]

        yield get


def _vocabulary(template: str, folder: Any) -> Vocabulary:
    vocabulary = load(save_folder(folder))
    vocabulary.tokenizer.chat_template = template
    return vocabulary


def _whole(harness: Harness, **fields: Any) -> Any:
    with openai_client(harness) as client:
        answer = client.chat.completions.create(model="tiny", messages=USER, **fields)
    assert len(answer.choices) == fields.get("n", 1)
    return answer.choices[0]


def _streamed(harness: Harness, **fields: Any) -> tuple[dict[str, Any], str]:
    """The message that a client puts together, and why it ended."""
    message: dict[str, Any] = {"content": "", "reasoning": "", "calls": []}
    reasons: list[str] = []
    with openai_client(harness) as client:
        stream = client.chat.completions.create(model="tiny", messages=USER, stream=True, **fields)
        for chunk in stream:
            (choice,) = chunk.choices
            message["content"] += choice.delta.content or ""
            message["reasoning"] += getattr(choice.delta, "reasoning_content", None) or ""
            for call in choice.delta.tool_calls or []:
                if call.index == len(message["calls"]):
                    assert call.id
                    assert call.type == "function"
                    message["calls"].append([call.function.name, ""])
                message["calls"][call.index][1] += call.function.arguments or ""
            assert "\ufffd" not in str(choice.delta)
            reasons += [choice.finish_reason] if choice.finish_reason else []
    (reason,) = reasons
    return message, reason


def _refusal(harness: Harness, **fields: Any) -> tuple[str | None, str]:
    with openai_client(harness) as client, pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**{"model": "tiny", "messages": USER, **fields})
    assert harness.core.submitted == []
    return refused.value.param, refused.value.message


# --- calls ----------------------------------------------------------------------------------------


def test_every_family_is_tested() -> None:
    assert sorted(CALLS) == list(NAMES)


@pytest.mark.parametrize("name", sorted(CALLS))
def test_the_official_client_gets_a_call_of_every_family(start: Start, name: str) -> None:
    harness = start(tool_parser=name)
    harness.core.script = Script(text=CALLS[name], per_step=7)
    choice = _whole(harness, tools=[WEATHER, PING])
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name) == ("function", "get_weather")
    assert json.loads(call.function.arguments) == ARGUMENTS
    assert len(call.id) == 9
    assert harness.core.submitted[0].sampling.grammar is None


@pytest.mark.parametrize("per_step", [1, 5, 1000])
@pytest.mark.parametrize("name", sorted(CALLS))
def test_a_call_is_streamed_as_deltas(start: Start, name: str, per_step: int) -> None:
    harness = start(tool_parser=name)
    said = "" if name in BARE else "Let me see 🗻.\n"
    harness.core.script = Script(text=said + CALLS[name], per_step=per_step)
    message, reason = _streamed(harness, tools=[WEATHER, PING])
    assert (message["content"], reason) == (said.strip(), "tool_calls")
    ((function, arguments),) = message["calls"]
    assert (function, json.loads(arguments)) == ("get_weather", ARGUMENTS)


@pytest.mark.parametrize("name", sorted(CALLS))
def test_a_call_that_is_cut_off_comes_as_content(start: Start, name: str) -> None:
    harness = start(tool_parser=name)
    text = CALLS[name][: CALLS[name].index("3")]
    harness.core.script = Script(text=text, per_step=3)
    choice = _whole(harness, tools=[WEATHER])
    assert (choice.message.content, choice.finish_reason) == (text, "stop")
    assert choice.message.tool_calls is None
    assert _streamed(harness, tools=[WEATHER])[0]["content"] == text


def test_without_tools_a_call_is_plain_text(start: Start) -> None:
    harness = start(tool_parser="hermes")
    harness.core.script = Script(text=CALLS["hermes"], per_step=9)
    assert _whole(harness).message.content == CALLS["hermes"]
    none = _whole(harness, tools=[WEATHER], tool_choice="none")
    assert (none.message.content, none.finish_reason) == (CALLS["hermes"], "stop")


def test_each_answer_of_n_has_calls_of_its_own(start: Start) -> None:
    harness = start(tool_parser="hermes")
    harness.core.script = Script(text=CALLS["hermes"] * 2, per_step=4)
    with openai_client(harness) as client:
        answer = client.chat.completions.create(model="tiny", messages=USER, tools=[WEATHER], n=2)
    calls = [call for choice in answer.choices for call in choice.message.tool_calls or []]
    assert len({call.id for call in calls}) == len(calls) == 4
    one = _whole(harness, tools=[WEATHER], parallel_tool_calls=False)
    assert len(one.message.tool_calls) == 1


def test_log_probabilities_come_with_every_token_of_a_call(start: Start) -> None:
    harness = start(tool_parser="hermes")
    harness.core.script = Script(text="é " + CALLS["hermes"], per_step=4)
    fields: Any = {"tools": [WEATHER], "logprobs": True}
    choice = _whole(harness, **fields)
    count = len(("é " + CALLS["hermes"]).encode())
    assert len(choice.logprobs.content) == count
    with openai_client(harness) as client:
        stream = client.chat.completions.create(model="tiny", messages=USER, stream=True, **fields)
        told = [c.choices[0].logprobs for c in stream]
    assert sum(len(entry.content) for entry in told if entry) == count


@pytest.mark.parametrize("name", sorted(CALLS))
def test_a_required_call_binds_the_answer_to_a_grammar(start: Start, name: str) -> None:
    harness = start(tool_parser=name)
    harness.core.script = Script(text=CALLS[name], per_step=50)
    choice = _whole(harness, tools=[WEATHER, PING], tool_choice="required", n=2)
    assert choice.finish_reason == "tool_calls"
    grammars = [submit.sampling.grammar or "" for submit in harness.core.submitted]
    assert len(grammars) == 2
    assert all("get_weather" in grammar and "ping" in grammar for grammar in grammars)
    chosen: Any = {"type": "function", "function": {"name": "get_weather"}}
    _whole(harness, tools=[WEATHER, PING], tool_choice=chosen)
    assert "ping" not in (harness.core.submitted[-1].sampling.grammar or "ping")


def test_tools_calls_and_results_go_through_the_template(start: Start) -> None:
    harness = start(tool_parser="hermes")
    harness.core.script = Script(text=CALLS["hermes"], per_step=50)
    with openai_client(harness) as client:
        first = client.chat.completions.create(model="tiny", messages=USER, tools=[WEATHER])
        asked = first.choices[0].message
        call_id = asked.tool_calls[0].id if asked.tool_calls else ""
        result: Any = {"role": "tool", "tool_call_id": call_id, "content": "sunny"}
        harness.core.script = Script(text="It is sunny.", per_step=50)
        conversation: list[Any] = [*USER, asked.model_dump(), result]
        last = client.chat.completions.create(model="tiny", messages=conversation, tools=[WEATHER])
    assert last.choices[0].message.content == "It is sunny."
    prompt = bytes(i for i in harness.core.submitted[-1].prompt_ids if i < 256).decode()
    assert '"description": "The weather of a city"' in prompt
    written = json.dumps(ARGUMENTS, ensure_ascii=False)
    assert f"[{call_id} get_weather {written}]" in prompt
    assert "tool\nsunny" in prompt


def test_a_model_whose_template_knows_no_tools_is_told_in_words(start: Start) -> None:
    harness = start(template=TEMPLATE)
    harness.core.script = Script(text=CALLS["hermes"], per_step=50)
    conversation: list[Any] = [
        {"role": "system", "content": "Be kind."},
        *USER,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "ping", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "pong"},
    ]
    choice = _whole_of(harness, conversation, tools=[WEATHER])
    assert choice.message.tool_calls[0].function.name == "get_weather"
    prompt = bytes(i for i in harness.core.submitted[-1].prompt_ids if i < 256).decode()
    assert prompt.startswith("system\nBe kind.\n\nYou may call functions.")
    assert '<tool_call>\n{"name": "ping", "arguments": {}}\n</tool_call>' in prompt
    assert "user\n<tool_response>\npong\n</tool_response>" in prompt


def _whole_of(harness: Harness, messages: list[Any], **fields: Any) -> Any:
    with openai_client(harness) as client:
        answer = client.chat.completions.create(model="tiny", messages=messages, **fields)
    return answer.choices[0]


def test_markers_that_are_special_tokens_are_read_and_enforced(start: Start, tmp_path: Any) -> None:
    vocabulary = load(save_folder(tmp_path / "tiny"))
    vocabulary.tokenizer.chat_template = KNOWS_TOOLS
    marker = AddedToken("[TOOL_CALLS]", special=True)
    vocabulary.tokenizer.add_special_tokens({"additional_special_tokens": [marker]})
    text = CALLS["mistral"].removeprefix("[TOOL_CALLS]")
    with Harness(tmp_path / "tiny", vocabulary, options={"tool_parser": "mistral"}) as harness:
        harness.make_ready(max_seq_length=4096)
        marker_id = vocabulary.tokenizer.convert_tokens_to_ids("[TOOL_CALLS]")
        harness.core.script = Script(ids=[marker_id, *text.encode()], per_step=6)
        choice = _whole(harness, tools=[WEATHER], tool_choice="required")
        assert choice.message.tool_calls[0].function.name == "get_weather"
        assert f"<[{marker_id}]>" in (harness.core.submitted[0].sampling.grammar or "")
        assert _streamed(harness, tools=[WEATHER])[1] == "tool_calls"


# --- thoughts -------------------------------------------------------------------------------------

THINKS = TEMPLATE + "{# </think> #}"
OPENS_THOUGHTS = TEMPLATE.replace("assistant\n{%", "assistant\n<think>\n{%") + "{# </think> #}"
THOUGHT = "<think>\nHm, 1 < 2 🗻.\n</think>\n\n"


@pytest.mark.parametrize("per_step", [1, 4, 1000])
def test_thoughts_come_apart_from_the_answer(start: Start, per_step: int) -> None:
    harness = start(template=THINKS)
    harness.core.script = Script(text=THOUGHT + "Yes 🗻.", per_step=per_step)
    message = _whole(harness).message
    assert (message.reasoning_content, message.content) == ("Hm, 1 < 2 🗻.", "Yes 🗻.")
    streamed, reason = _streamed(harness)
    assert (streamed["reasoning"], streamed["content"]) == ("Hm, 1 < 2 🗻.", "Yes 🗻.")
    assert reason == "stop"


def test_a_template_that_opens_thoughts_needs_no_begin_marker(start: Start) -> None:
    harness = start(template=OPENS_THOUGHTS)
    harness.core.script = Script(text=THOUGHT.removeprefix("<think>") + "Yes.", per_step=3)
    message = _whole(harness).message
    assert (message.reasoning_content, message.content) == ("Hm, 1 < 2 🗻.", "Yes.")


def test_the_parser_can_be_switched_off(start: Start) -> None:
    harness = start(template=THINKS, reasoning_parser="none")
    harness.core.script = Script(text=THOUGHT + "Yes.", per_step=3)
    assert _whole(harness).message.content == THOUGHT + "Yes."


def test_what_is_only_thought_of_is_no_call(start: Start) -> None:
    harness = start(template=KNOWS_TOOLS + "{# </think> #}", tool_parser="hermes")
    thought = f"<think>Should I {CALLS['hermes']}?</think>"
    harness.core.script = Script(text=thought + CALLS["hermes"], per_step=8)
    message = _whole(harness, tools=[WEATHER]).message
    assert message.reasoning_content == f"Should I {CALLS['hermes']}?"
    assert len(message.tool_calls) == 1


def test_a_bound_answer_may_think_first(start: Start) -> None:
    harness = start(template=THINKS)
    harness.core.script = Script(text=THOUGHT + "{}", per_step=8)
    choice = _whole(harness, response_format={"type": "json_object"})
    assert (choice.message.content, choice.message.reasoning_content) == ("{}", "Hm, 1 < 2 🗻.")
    assert "</think>" in (harness.core.submitted[0].sampling.grammar or "")


# --- JSON -----------------------------------------------------------------------------------------


def test_a_schema_goes_to_the_core_as_a_grammar(start: Start) -> None:
    harness = start()
    harness.core.script = Script(text='{"x": 1}', per_step=2)
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    asked: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert _whole(harness, response_format=asked).message.content == '{"x": 1}'
    assert '"x": {"type": "integer"}' in (harness.core.submitted[0].sampling.grammar or "")
    _whole(harness, response_format={"type": "text"})
    assert harness.core.submitted[1].sampling.grammar is None


# --- refusals -------------------------------------------------------------------------------------

_SCHEMA: dict[str, Any] = {"name": "x", "schema": {"not": {"type": "string"}}}
_OTHER = {"type": "function", "function": {"name": "other"}}
_BAD = {"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": _SCHEMA}},
            "response_format",
            'Unimplemented keys: ["not"]',
        ),
        ({"response_format": {"type": "json_schema"}}, "response_format", "json_schema goes"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format",
            "json_schema.schema is missing",
        ),
        (
            {"response_format": {"type": "json_object"}, "tools": [WEATHER]},
            "response_format",
            "cannot be combined with tools",
        ),
        (
            {"response_format": {"type": "json_object"}, "extra_body": {"ignore_eos": True}},
            "ignore_eos",
            "cannot be combined with response_format",
        ),
        ({"tool_choice": "required"}, "tool_choice", "needs tools"),
        ({"tools": [WEATHER], "tool_choice": _OTHER}, "tool_choice", "'other'"),
        ({"tools": [WEATHER], "tool_choice": "maybe"}, "tool_choice", "'maybe'"),
        ({"tools": [WEATHER, WEATHER]}, "tools", "Two tools are named 'get_weather'"),
        ({"tools": [_BAD], "tool_choice": "required"}, "tools", "Unimplemented"),
        ({"tools": [{"type": "code"}]}, "tools[0]", "tools[0]"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0]", "tool_call_id"),
        ({"messages": [{"role": "assistant"}]}, "messages[0]", "content or tool_calls"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    start: Start, fields: dict[str, Any], param: str, words: str
) -> None:
    named, message = _refusal(start(tool_parser="hermes"), **fields)
    assert str(named).startswith(param)
    assert words in message


def test_an_engine_that_reads_no_calls_refuses_tools(start: Start) -> None:
    harness = start(tool_parser="none")
    assert _refusal(harness, tools=[WEATHER])[0] == "tools"
    assert _whole(harness, tools=[WEATHER], tool_choice="none").message.content


def test_the_options_name_every_family() -> None:
    from engine.api import reasoning, tools
    from engine.config import EngineConfig

    allowed = {info.name: info.choices for info in EngineConfig.options()}
    assert allowed["tool_parser"] == ("auto", "none", *tools.NAMES)
    assert allowed["reasoning_parser"] == ("auto", "none", *reasoning.NAMES)


def test_arguments_are_text_for_templates_that_add_them_to_a_text(tmp_path: Any) -> None:
    vocabulary = load(save_folder(tmp_path / "tiny"))
    vocabulary.tokenizer.chat_template = (
        "{% for m in messages %}{% for c in m.tool_calls %}"
        "{{ 'call ' + c.function.arguments }}{% endfor %}{% endfor %}"
    )
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    ids = vocabulary.encode_chat(
        [{"role": "assistant", "content": "", "tool_calls": [call]}], {}, ()
    )
    assert bytes(ids) == b'call {"x": 1}'
