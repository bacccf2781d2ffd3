"""chat: talk to a running model in the terminal."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from db.models import Deployment, State
from panel.client import EngineClient, Figures
from panel.commands.output import AsJson, opened, say, say_json, warn
from panel.deployments import Panel
from panel.errors import NotFound, ServerError


def register(app: typer.Typer) -> None:
    app.command()(chat)


def chat(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[ID] [PROMPT]", help="Which one, and the prompt")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System prompt")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Most tokens of an answer; default: what the context leaves")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy")] = None,
    as_json: AsJson = False,
) -> None:
    """Ask once (with a PROMPT), or talk until the end of input (Ctrl-D).

    ID may be left out where exactly one deployment is ready.
    """
    asked = {"max_tokens": max_tokens, "temperature": temperature}
    sampling = {name: value for name, value in asked.items() if value is not None}
    with opened() as panel:
        deployment, prompt = _which(panel, words or [])
        messages = [{"role": "system", "content": system}] if system else []
        with panel.client(deployment) as client:
            if prompt is not None:
                messages.append({"role": "user", "content": prompt})
                _answer(client, messages, sampling, as_json=as_json)
            else:
                _talk(client, messages, sampling, as_json=as_json)


def _talk(
    client: EngineClient,
    messages: list[dict[str, str]],
    sampling: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    while True:
        if sys.stdin.isatty():
            typer.echo("> ", nl=False, err=True)
        line = sys.stdin.readline()
        if not line:
            return
        if not line.strip():
            continue
        question = {"role": "user", "content": line.strip()}
        try:
            text = _answer(client, [*messages, question], sampling, as_json=as_json)
        except ServerError as error:  # the conversation goes on without that question
            warn(f"error: {error.message}" + (f"\nfix: {error.fix}" if error.fix else ""))
            continue
        messages += [question, {"role": "assistant", "content": text}]


def _answer(
    client: EngineClient,
    messages: list[dict[str, str]],
    sampling: dict[str, Any],
    *,
    as_json: bool,
) -> str:
    """Print the answer as it comes, then its figures on stderr."""
    text = ""
    for delta in client.stream(messages, **sampling):
        text += delta.text
        if delta.figures is None and not as_json:
            typer.echo(delta.text, nl=False)
            sys.stdout.flush()
        elif delta.figures is not None and as_json:
            say_json({"text": text, **delta.figures.to_dict()})
        elif delta.figures is not None:
            say("")
            warn(figures_line(delta.figures))
    return text


def figures_line(figures: Figures) -> str:
    """TTFT 0.21 s · TPOT 35 ms · 28.6 tokens/s · 40 + 112 tokens"""
    parts = [f"TTFT {figures.ttft_s:.2f} s"]
    if figures.tpot_s:
        parts.append(f"TPOT {figures.tpot_s * 1000:.0f} ms")
        parts.append(f"{1 / figures.tpot_s:.1f} tokens/s")
    parts.append(f"{figures.prompt_tokens} + {figures.completion_tokens} tokens")
    return " · ".join(parts)


def _which(panel: Panel, words: list[str]) -> tuple[Deployment, str | None]:
    """The deployment and the prompt that are meant: one word may be either."""
    if len(words) > 1:
        return panel.deployment(words[0]), " ".join(words[1:])
    if words:
        try:
            return panel.deployment(words[0]), None
        except NotFound:
            return _the_ready_one(panel), words[0]
    return _the_ready_one(panel), None


def _the_ready_one(panel: Panel) -> Deployment:
    ready = panel.deployments(states=[State.READY])
    if len(ready) == 1:
        return ready[0]
    if not ready:
        raise NotFound("No deployment is ready.", fix="Launch one: autoglm launch demo")
    names = ", ".join(f"{d.id} ({d.name})" for d in ready)
    raise NotFound(f"{len(ready)} deployments are ready: {names}.", fix="Name one: autoglm chat ID")
