"""Grammars in the real runner: a tiny model's answers fit, and a bad grammar fails alone."""

from __future__ import annotations

import json
import socket

import pytest
from jsonschema import Draft202012Validator

from engine.core.loop import Connection, Loop
from engine.core.messages import Failed, SamplingParams, Submit, encode
from engine.structured import (
    GrammarError,
    LlguidanceCompiler,
    TokenizerText,
    json_object_grammar,
    json_schema_grammar,
)
from engine.worker.masks import Masks
from engine.worker.sampler import Sampler
from tests.contract.tiny_tokenizer import EOS_ID, VOCAB_SIZE, tiny_tokenizer
from tests.unit.tiny_models import VOCAB, TinyEngine, drain, prompts, tiny_model

END = 130
"""A token that is no part of any JSON here, and within the model's vocabulary."""

SCHEMA = {
    "type": "object",
    "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 999}, "ok": {"enum": ["y"]}},
    "required": ["x"],
    "additionalProperties": False,
}


def _masks() -> Masks:
    """The tokenizer has more tokens than the model: what lies beyond cannot come."""
    text = TokenizerText(tiny_tokenizer().backend_tokenizer.to_str(), EOS_ID, VOCAB_SIZE)
    return Masks(LlguidanceCompiler(lambda: text, VOCAB), VOCAB)


@pytest.mark.parametrize("num_blocks", [40, 14])
def test_bound_answers_of_a_real_model_fit_their_schema_and_leave_others_alone(
    num_blocks: int,
) -> None:
    model = tiny_model("llama")
    asked = prompts(5, 9, 3)
    alone, runner = TinyEngine(model).start()
    free = SamplingParams(max_new_tokens=20, temperature=0)
    alone.submit("free", asked[2], free)
    expected = drain(alone, runner)["free"]

    scheduler, runner = TinyEngine(model).start(num_blocks=num_blocks, budget=16)
    runner._sampler = Sampler(0, _masks())  # pyright: ignore[reportPrivateUsage]
    for index in range(2):
        bound = SamplingParams(
            max_new_tokens=30,
            seed=index,
            stop_token_ids=(END, EOS_ID),
            grammar=json_schema_grammar(SCHEMA),
        )
        runner.admit(bound)
        scheduler.submit(f"bound {index}", asked[index], bound)
    scheduler.submit("free", asked[2], free)
    answers = drain(scheduler, runner)
    assert answers["free"] == expected
    for index in range(2):
        *text, end = answers[f"bound {index}"]
        assert end == END
        Draft202012Validator(SCHEMA).validate(json.loads(bytes(text)))


def test_a_grammar_that_cannot_be_compiled_fails_its_request_at_once() -> None:
    scheduler, runner = TinyEngine(tiny_model("llama")).start()
    runner._sampler = Sampler(0, _masks())  # pyright: ignore[reportPrivateUsage]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        bad = SamplingParams(max_new_tokens=5, grammar='start: %json {"not": {}}')
        ours.sendall(encode(Submit("bad", [1, 2], bad)))
        ours.shutdown(socket.SHUT_WR)
        Loop(Connection(theirs), scheduler, runner).run()
        told = Connection(ours).receive(None)
    (failed,) = [message for message in told if isinstance(message, Failed)]
    assert (failed.request_id, failed.kind) == ("bad", "request")
    assert 'Unimplemented keys: ["not"]' in failed.message
    assert not scheduler.has_work


def test_a_matcher_of_a_request_that_is_gone_is_gone_too() -> None:
    scheduler, runner = TinyEngine(tiny_model("llama")).start()
    masks = _masks()
    runner._sampler = Sampler(0, masks)  # pyright: ignore[reportPrivateUsage]
    bound = SamplingParams(max_new_tokens=5, grammar=json_object_grammar(), stop_token_ids=(END,))
    scheduler.submit("a", [1, 2], bound)
    drain(scheduler, runner)
    scheduler.submit("b", [1, 2], SamplingParams(max_new_tokens=1))
    drain(scheduler, runner)  # the runner remembers the requests of its last step
    assert len(masks._progress) == 0  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(GrammarError):
        masks.admit(SamplingParams(max_new_tokens=1, grammar="start: ("))
