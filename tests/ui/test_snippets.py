"""Code to copy does what it says: it parses, quotes, and keeps the key out."""

from __future__ import annotations

import ast
import json
import shlex
from collections.abc import Callable

import pytest

from panel.ui import snippets

BASE = "http://127.0.0.1:8080/v1"
HARD = """It's "quoted" `x` $HOME \\ 你好"""
REQUEST = {"model": "demo", "messages": [{"role": "user", "content": HARD}], "max_tokens": 8}


def test_the_curl_command_sends_the_request_unchanged() -> None:
    words = shlex.split(snippets.curl(BASE, REQUEST).replace("\\\n", ""))
    assert words[:2] == ["curl", f"{BASE}/chat/completions"]
    assert json.loads(words[words.index("-d") + 1]) == REQUEST


@pytest.mark.parametrize("write", [snippets.curl, snippets.python])
def test_the_key_stays_a_variable(write: Callable[..., str]) -> None:
    assert snippets.KEY_VARIABLE in write(BASE, REQUEST)


def test_the_python_script_has_the_request_as_literals() -> None:
    tree = ast.parse(snippets.python(BASE, REQUEST))
    (call,) = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("completions.create")
    )
    given = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    assert given == {**REQUEST, "stream": True}
