"""The one Panel of this process, opened at the first use and shared by pages and routes."""

from __future__ import annotations

import functools

from panel.deployments import Panel
from panel.settings import Settings


def opened_panel() -> Panel:
    """The panel for the environment's settings. What fails to open is tried again next time."""
    return _open(Settings.from_environment())


@functools.cache
def _open(settings: Settings) -> Panel:
    return Panel.open(settings)
