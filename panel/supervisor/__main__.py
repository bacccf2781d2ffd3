"""`python -m panel.supervisor`, which is how `autoglm up` starts it."""

from __future__ import annotations

from panel.cli import run

run(["supervise"])
