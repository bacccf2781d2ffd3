"""A real panel with a real engine, and a real browser that walks through it.

The demo model is prepared once under tests/.artifacts/models and shared by all tests; every panel
runs in a fresh home. Pictures go to tests/.artifacts.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from panel.settings import Settings
from tests.e2e.running import ROOT, RunningPanel
from tests.e2e.visiting import ARTIFACTS, Visits
from tests.e2e.world import end_all_of, free_port

PREPARE_S = 300
CHROMIUM_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if ROOT / "tests" / "e2e" in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def demo_models() -> Path:
    """A models folder in which the demo model is ready, made once for all runs."""
    path = ARTIFACTS / "models"
    path.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [sys.executable, "-m", "panel.models.prepare", "demo", "--models-path", str(path)],
        cwd=ROOT,
        check=True,
        timeout=PREPARE_S,
        stdout=subprocess.DEVNULL,
    )
    return path


@pytest.fixture
def settings(tmp_path: Path, demo_models: Path) -> Iterator[Settings]:
    """A fresh home with the demo model. Whatever a test leaves running for it is ended."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "models").symlink_to(demo_models)
    yield Settings(home=str(home), port=free_port())
    end_all_of(home)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium; without one the browser tests are skipped (in CI they fail)."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on this machine; see tests/e2e/install-chromium.sh")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=chromium, args=list(CHROMIUM_FLAGS), headless=True
        )
        yield started
        started.close()


@pytest.fixture(scope="module")
def running_panel(
    tmp_path_factory: pytest.TempPathFactory, demo_models: Path
) -> Iterator[RunningPanel]:
    """One panel for all tests of a module. Its models folder has only what was downloaded, so the
    first launch takes the model out, converts it and shows that."""
    home = tmp_path_factory.mktemp("home")
    (home / "models").mkdir()
    (home / "models" / "cache").symlink_to(demo_models / "cache")
    running = RunningPanel(home)
    try:
        running.start()
        yield running
        running.end()
    finally:
        end_all_of(home)


@pytest.fixture
def visits(browser: Browser, running_panel: RunningPanel) -> Iterator[Visits]:
    made = Visits(browser, running_panel.address)
    yield made
    made.close()
    assert made.external == [], "a page asked for something outside this machine"
