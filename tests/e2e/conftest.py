"""A real panel with a real engine, and a real browser that walks through it.

`autoglm up` runs as a process of its own in a fresh home on free ports; the demo model is prepared
once under tests/.artifacts/models and shared. Pictures go to tests/.artifacts.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from panel.deployments import Panel
from panel.settings import Settings

ROOT = Path(__file__).parents[2]
ARTIFACTS = ROOT / "tests" / ".artifacts"
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
START_S, STOP_S, PREPARE_S = 60, 30, 300


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if ROOT / "tests" / "e2e" in item.path.parents:
            item.add_marker(pytest.mark.e2e)


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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class RunningPanel:
    """`autoglm up` in a home of its own."""

    home: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        outer = {name: v for name, v in os.environ.items() if not name.startswith("AUTOGLM_")}
        return {**outer, "AUTOGLM_HOME": str(self.home), "AUTOGLM_PORT": str(self.port)}

    def start(self) -> None:
        log = (self.home / "up.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "panel.cli", "up"],
            cwd=ROOT,
            env=self.environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        until = time.monotonic() + START_S
        while not self.answers():
            said = (self.home / "up.log").read_text()
            assert self.process.poll() is None, f"autoglm up ended:\n{said}"
            assert time.monotonic() < until, f"no panel within {START_S} s:\n{said}"
            time.sleep(0.2)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/_stcore/health", timeout=1) as answer:
                return answer.read() == b"ok"
        except OSError:
            return False

    def end(self) -> None:
        """Ctrl-C; engines go on."""
        if self.process:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(STOP_S)
            self.process = None

    def restart(self) -> None:
        self.end()
        self.start()

    def open(self) -> Panel:
        """The same panel's verbs in this process."""
        return Panel.open(Settings(home=str(self.home), port=self.port))

    def stop_all(self) -> None:
        """Ask every deployment to end and wait until it has."""
        panel = self.open()
        try:
            until = time.monotonic() + STOP_S
            for deployment in panel.deployments():
                panel.stop(deployment.id, actor="test")
            while not all(deployment.state.is_final for deployment in panel.deployments()):
                assert time.monotonic() < until, "an engine did not stop"
                time.sleep(0.2)
        finally:
            panel.close()


@pytest.fixture(scope="module")
def running_panel(tmp_path_factory: pytest.TempPathFactory, demo_models: Path) -> Iterator[Any]:
    home = tmp_path_factory.mktemp("home")
    (home / "models").symlink_to(demo_models)
    running = RunningPanel(home)
    running.start()
    yield running
    if running.process is None:
        running.start()
    running.stop_all()
    running.end()


@dataclass
class Visitor:
    """One reader at the panel: opens pages, waits until they are drawn, takes pictures."""

    page: Page
    address: str
    external: list[str] = field(default_factory=list)

    def open(self, path: str = "/") -> Page:
        self.page.goto(self.address + path)
        self.idle()
        return self.page

    def idle(self) -> None:
        """Wait until the script has run, nothing is stale, and the fonts are there."""
        self.page.locator(
            "[data-testid=stApp][data-test-script-state=notRunning]"
        ).wait_for(timeout=60_000)  # fmt: skip
        self.page.wait_for_function(
            "() => !document.querySelector('[data-stale=true], [data-testid=stSkeleton]')",
            timeout=30_000,
        )
        self.page.evaluate("() => document.fonts.ready")

    def picture(self, name: str) -> None:
        ARTIFACTS.mkdir(parents=True, exist_ok=True)
        self.page.wait_for_timeout(300)
        self.page.screenshot(path=ARTIFACTS / f"{name}.png", animations="disabled", caret="hide")


class Visits:
    """Makes visitors and afterwards checks that none of them fetched anything from elsewhere."""

    def __init__(self, browser: Browser, address: str) -> None:
        self.browser = browser
        self.address = address
        self.contexts: list[BrowserContext] = []
        self.external: list[str] = []

    def new(
        self, *, locale: str = "en-US", dark: bool = False, width: int = 1440
    ) -> Visitor:  # fmt: skip
        context = self.browser.new_context(
            viewport={"width": width, "height": 900},
            locale=locale,
            timezone_id="UTC",
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
        )
        context.on("request", lambda request: self._note(request.url))
        self.contexts.append(context)
        return Visitor(context.new_page(), self.address, self.external)

    def _note(self, url: str) -> None:
        if not url.startswith((self.address, "data:", "blob:")):
            self.external.append(url)

    def close(self) -> None:
        for context in self.contexts:
            context.close()


@pytest.fixture
def visits(browser: Browser, running_panel: RunningPanel) -> Iterator[Visits]:
    made = Visits(browser, running_panel.address)
    yield made
    made.close()
    assert made.external == [], "a page asked for something outside this machine"
