"""A chat request as code to copy. Pure; the API key stays a variable."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

KEY_VARIABLE = "AUTOGLM_API_KEY"


def export(key_path: str) -> str:
    """The line that puts the key of a file into the variable, for a POSIX shell."""
    return f'export {KEY_VARIABLE}="$(cat {shlex.quote(key_path)})"'


def curl(base_url: str, request: Mapping[str, Any]) -> str:
    """A command for a POSIX shell; the body is quoted for it."""
    body = shlex.quote(json.dumps(request, ensure_ascii=False))
    return (
        f"curl {base_url}/chat/completions \\\n"
        f'  -H "Authorization: Bearer ${KEY_VARIABLE}" \\\n'
        f"  -H 'Content-Type: application/json' \\\n"
        f"  -d {body}"
    )


def python(base_url: str, request: Mapping[str, Any]) -> str:
    """A script for the openai package that prints the answer as it comes."""
    arguments = "\n".join(f"    {name}={value!r}," for name, value in request.items())
    return (
        "import os\n\n"
        "from openai import OpenAI\n\n"
        f'client = OpenAI(base_url="{base_url}", api_key=os.environ["{KEY_VARIABLE}"])\n'
        "stream = client.chat.completions.create(\n"
        f"{arguments}\n"
        "    stream=True,\n"
        ")\n"
        "for chunk in stream:\n"
        "    if chunk.choices:\n"
        '        print(chunk.choices[0].delta.content or "", end="", flush=True)\n'
    )
