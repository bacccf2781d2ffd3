"""The command `autoglm`: every verb of the pages, for the terminal.

This file only puts the commands together and shows errors, in one place: `error:` and `fix:` on
stderr, exit code 1 (2 for a command line that cannot be understood).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from db.errors import DatabaseError
from engine.errors import EngineError
from panel.commands import chatting, deploying, looking, running, sizing
from panel.errors import PanelError


class _ErrorsShown(TyperGroup):
    """Shows what a person can cure; everything else is a bug and keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (PanelError, DatabaseError, EngineError) as error:
            typer.echo(f"error: {error.message}", err=True)
            if error.fix:
                typer.echo(f"fix: {error.fix}", err=True)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=_ErrorsShown,
    help="From a bare machine to a measured, supervised LLM server.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for commands in (running, sizing, deploying, looking, chatting):
    commands.register(app)


def run(argv: Sequence[str]) -> None:
    """Run one command and exit with its code."""
    app(args=list(argv), prog_name="autoglm")


def main() -> None:
    run(sys.argv[1:])


if __name__ == "__main__":
    main()
