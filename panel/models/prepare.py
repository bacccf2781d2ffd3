"""`python -m panel.models.prepare SOURCE --models-path P`: make a model ready, telling how far.

Standard output carries JSON lines: {"stage": "download"|"convert", "progress": 0.31, "detail": "…"}
and last {"path": "…"} (exit code 0) or {"error": {"code", "message", "fix"}} (exit code 2). The
supervisor runs this as a child, so that a fetch can be ended like any process; SIGTERM ends its own
children too and keeps what has arrived.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from panel.errors import PanelError
from panel.models.download import fetch
from panel.models.progress import Progress
from panel.models.source import parse


def main(argv: list[str] | None = None) -> int:
    """Fetch one source; gives the exit code."""
    arguments = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _leave)
    try:
        path = fetch(parse(arguments.source), arguments.models_path.absolute(), _report)
    except PanelError as error:
        _say({"error": {"code": error.code, "message": error.message, "fix": error.fix}})
        return 2
    _say({"path": str(path)})
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m panel.models.prepare", description=__doc__)
    parser.add_argument("source", help="demo, a folder, hf:org/name or ms:org/name")
    parser.add_argument("--models-path", type=Path, required=True, help="where models are kept")
    return parser


def _report(progress: Progress) -> None:
    _say(
        {
            "stage": progress.stage,
            "progress": round(progress.fraction, 4),
            "detail": progress.detail,
        }
    )


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _leave(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)


if __name__ == "__main__":
    sys.exit(main())
