"""Each test gets a database of its own and a machine that is always the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import panel.deployments
from panel.deployments import Panel
from panel.hardware.machine import Machine
from panel.ui import opened
from tests.ui import scenes
from tests.ui.look import OpenPage

APP = Path(panel.__file__ or "").parent / "ui" / "app.py"


@pytest.fixture
def machine() -> Machine:
    """The machine that is detected; a test may override this fixture."""
    return scenes.LAPTOP


@pytest.fixture
def panel_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: Machine
) -> Iterator[Panel]:
    """The panel that the pages open, with an empty database."""
    monkeypatch.setenv("AUTOGLM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(panel.deployments, "detect", lambda models_path: machine)
    here = opened.opened_panel()
    yield here
    here.close()
    opened._open.cache_clear()


@pytest.fixture
def open_page(panel_here: Panel) -> OpenPage:
    """Draw one page, given its address, as a first visit does."""

    def draw(page: str = "setup", locale: str = "en-US", **query: str | list[str]) -> AppTest:
        test = AppTest.from_file(str(APP), default_timeout=30)
        test.context = {"locale": locale}  # type: ignore[assignment]  # a plain dict is what it takes
        test.run()
        test.switch_page(f"views/{page}.py")
        for name, value in query.items():
            test.query_params[name] = value
        test.run()
        assert not test.exception, test.exception
        return test

    return draw
