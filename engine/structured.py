"""Grammars that an answer must follow: which tokens may come next, and what came.

A grammar is a text in llguidance's Lark dialect. The API process writes it (`json_schema_grammar`,
or `api/tools` for tool calls) and checks it with `check`; it travels in `SamplingParams.grammar`;
`worker/masks` asks for the mask of the rows that have one:

    text ──compile──► Matcher ──fill──► bits of the allowed tokens ──► sampler draws ──► accept

Neither torch nor the tokenizer is needed to check a grammar, only to follow it.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.errors import RequestError

MAX_GRAMMAR_CHARS = 200_000
"""A longer grammar is refused: it travels with every request and is compiled in the core."""

_MAX_COMPILED = 64

_JSON_OPTIONS = {"whitespace_pattern": r"( |\n[ \t]{0,40})?"}
"""One space, or a new line with its indentation. With JSON's own rule, any number of them, models
that are unsure write blanks until their limit."""

Mask = NDArray[np.int32]
"""Rows of bits, token i in bit i % 32 of word i // 32."""


class GrammarError(RequestError):
    """The grammar is wrong, asks for what cannot be enforced, or grew too large on the way."""


class Matcher(Protocol):
    """How far one answer is in its grammar."""

    def fill(self, mask: Mask) -> bool:
        """Write the tokens that may come next; True if the answer may also end here.

        Raises GrammarError where following the grammar costs too much.
        """
        ...

    def accept(self, token_id: int) -> None:
        """Go on by a token that the mask allowed."""
        ...

    def rollback(self, num_tokens: int) -> None:
        """Take back the tokens that were accepted last."""
        ...


class Compiler(Protocol):
    """Turns texts into matchers, each at the beginning of its grammar. Raises GrammarError."""

    def compile(self, grammar: str) -> Matcher: ...


def json_schema_grammar(schema: Mapping[str, Any]) -> str:
    """Exactly one JSON value that the schema allows, its properties in the schema's order."""
    return "start: value\nvalue: " + json_rule(schema)


def json_object_grammar() -> str:
    """Any one JSON object."""
    return json_schema_grammar({"type": "object"})


def json_rule(schema: Mapping[str, Any]) -> str:
    """A schema as the right side of a rule. The schema cannot change how it is enforced."""
    _refuse_large_numbers(schema)
    return "%json " + json.dumps({**schema, "x-guidance": _JSON_OPTIONS}, ensure_ascii=False)


def _refuse_large_numbers(value: Any) -> None:
    """llguidance reads numbers as doubles, which would round these without a word."""
    if isinstance(value, int) and abs(value) > 2**53:
        raise GrammarError(
            f"The schema cannot be enforced: {value} is beyond 2^53.", code="unsupported_schema"
        )
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            _refuse_large_numbers(part)


def literal(text: str) -> str:
    """A text as it stands in a rule."""
    return json.dumps(text, ensure_ascii=False)


def fixed_text(text: str, special_ids: Mapping[str, int]) -> str:
    """Fixed text as a rule's right side: special tokens by their id, all else as it stands."""
    names = "|".join(map(re.escape, sorted(special_ids, key=len, reverse=True)))
    pieces = [piece for piece in re.split(f"({names})", text) if piece] if names else [text]
    return " ".join(
        f"<[{special_ids[piece]}]>" if piece in special_ids else literal(piece)
        for piece in pieces
        if piece
    )


def check(grammar: str, *, param: str) -> None:
    """Raise GrammarError, naming what is wrong, for a grammar that no answer could follow."""
    from llguidance import LLMatcher

    if len(grammar) > MAX_GRAMMAR_CHARS:
        raise GrammarError(
            f"The schema makes a grammar of {len(grammar)} characters; {MAX_GRAMMAR_CHARS} are "
            "the most.",
            param=param,
        )
    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    if failed:
        reason = re.sub(r"\s+", " ", messages[0])[:500]
        raise GrammarError(
            f"The schema cannot be enforced: {reason}", param=param, code="unsupported_schema"
        )


@dataclass(frozen=True, slots=True)
class TokenizerText:
    """A tokenizer as the JSON of the tokenizers library, and a token that ends texts."""

    json: str
    end_id: int
    num_tokens: int


class LlguidanceCompiler:
    """Compiled grammars of one vocabulary, the newest 64 kept.

    read_tokenizer: called with the first grammar, as this takes 0.3 s and 45 MB (49,152 tokens)
    that most engines never need.
    num_tokens: entries of a row of logits.
    """

    def __init__(self, read_tokenizer: Callable[[], TokenizerText], num_tokens: int) -> None:
        self._read_tokenizer = read_tokenizer
        self._num_tokens = num_tokens
        self._tokenizer: Any = None
        self._compiled: OrderedDict[str, Any] = OrderedDict()

    def compile(self, grammar: str) -> Matcher:
        """1.5 ms for a schema of eight properties the first time, 7 µs after that."""
        compiled = self._compiled.get(grammar)
        if compiled is None:
            compiled = self._compiled[grammar] = self._new(grammar)
            if len(self._compiled) > _MAX_COMPILED:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(grammar)
        return _LlguidanceMatcher(compiled.deep_copy(), self._tokenizer.eos_token)

    def _new(self, grammar: str) -> Any:
        from llguidance import LLMatcher, LLTokenizer

        if self._tokenizer is None:
            text = self._read_tokenizer()
            size = max(self._num_tokens, text.num_tokens)
            self._tokenizer = LLTokenizer(text.json, n_vocab=size, eos_token=text.end_id)
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise GrammarError(f"The grammar cannot be enforced: {_first_line(matcher)}")
        return matcher


class _LlguidanceMatcher:
    def __init__(self, matcher: Any, end_id: int) -> None:
        self._matcher = matcher
        self._end_id = end_id

    def fill(self, mask: Mask) -> bool:
        if self._matcher.is_stopped():
            self._raise_error()
            mask.fill(0)
            return True
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.int32)
        self._raise_error()
        mask[:] = bits[: mask.size]  # they come with a spare word
        set_bit(mask, self._end_id, False)  # how an answer ends is the request's business
        return self._matcher.is_accepting()

    def accept(self, token_id: int) -> None:
        if not self._matcher.consume_token(token_id):
            self._raise_error()

    def rollback(self, num_tokens: int) -> None:
        if not self._matcher.rollback(num_tokens):
            self._raise_error()

    def _raise_error(self) -> None:
        if self._matcher.is_error():
            raise GrammarError(f"The grammar cannot be followed: {_first_line(self._matcher)}")


def _first_line(matcher: Any) -> str:
    """What is wrong, without the parser's state."""
    return matcher.get_error().partition("\n")[0][:500]


def words_of(num_tokens: int) -> int:
    """Words of a mask's row."""
    return -(-num_tokens // 32)


def set_bit(mask: Mask, token_id: int, value: bool) -> None:
    """Does nothing for a token beyond the mask: some tokenizers have more than their model."""
    if token_id >= 32 * mask.size:
        return
    bit = np.int32(np.uint32(1 << token_id % 32).view(np.int32))
    word = token_id // 32
    mask[word] = mask[word] | bit if value else mask[word] & ~bit
