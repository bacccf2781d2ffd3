"""A reader with a browser: opens pages, waits until they are drawn, takes pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page

ARTIFACTS = Path(__file__).parents[1] / ".artifacts"


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
        self.page.mouse.move(720, 896)  # off the charts, whose tools show under the pointer
        self.page.wait_for_timeout(700)
        self.page.wait_for_function("() => !document.querySelector('[data-stale=true]')")
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
