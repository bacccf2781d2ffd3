"""What a newcomer does, in a real browser with the real demo model: from first page to answer.

Takes about three minutes on two cores, most of it the engine's start.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from db.models import Desired, State
from tests.e2e.running import RunningPanel
from tests.e2e.visiting import Visitor, Visits
from tests.e2e.world import processes_of

READY_MS, ANSWER_MS = 180_000, 90_000
FIGURES = re.compile(r"TTFT [\d,]+(\.\d)? ms")
STREAMLITS_OWN = frozenset({"list", "listitem", "svg-img-alt"})
"""axe rules that Streamlit 1.67 breaks by itself: sidebar sections and metric sparklines."""

PRIMARY_AS_TEXT = (
    "[data-testid=stSliderThumbValue]",
    "[data-testid=stButtonGroup] [data-selected]",
)
"""Streamlit writes these in the primary colour and buttons in white upon it. On a dark page no one
colour gives both 4.5:1; ours favours the buttons (4.6:1, these 3.6:1)."""


@dataclass(frozen=True)
class Walked:
    """Where the walk came by."""

    deployment_id: str
    chat_id: str
    answer: str


def value_of(url: str, name: str) -> str:
    return parse_qs(urlsplit(url).query)[name][0]


@pytest.fixture(scope="module")
def walked(browser: Browser, running_panel: RunningPanel) -> Walked:
    """Click through the wizard to a streamed answer, and take the README's pictures on the way."""
    visits = Visits(browser, running_panel.address)
    visitor = visits.new()
    page = visitor.open("/")
    expect(page.get_by_role("heading", name="Set up a model server")).to_be_visible()
    expect(page.get_by_text("Supervisor running")).to_be_visible()
    visitor.picture("hardware")
    page.get_by_role("button", name="Choose a model").click()
    visitor.idle()
    expect(page.get_by_text("Fits comfortably")).to_be_visible()
    visitor.picture("setup")
    page.get_by_test_id("stMain").get_by_role("button", name="Launch").last.click()
    expect(page.get_by_text("Check the machine")).to_be_visible(timeout=30_000)
    under_way = page.get_by_text(re.compile("Importing torch|Where to reach it"))
    expect(under_way.first).to_be_visible(timeout=READY_MS)
    visitor.picture("launch")
    expect(page.get_by_text("Where to reach it")).to_be_visible(timeout=READY_MS)
    visitor.idle()
    visitor.picture("ready")
    deployment_id = value_of(page.url, "deployment")
    page.get_by_role("button", name="Open playground").click()
    answer = ask(visitor, "What is the capital of France?")
    visitor.picture("playground")
    chat_id = value_of(page.url, "chat")
    visits.close()
    assert visits.external == []
    return Walked(deployment_id, chat_id, answer)


def ask(visitor: Visitor, question: str) -> str:
    """Say something in the playground; gives the answer once its figures are there."""
    page = visitor.page
    page.get_by_test_id("stChatInputTextArea").fill(question)
    page.keyboard.press("Enter")
    last = page.get_by_test_id("stChatMessage").last
    expect(last.get_by_text(FIGURES)).to_be_visible(timeout=ANSWER_MS)
    visitor.idle()
    return last.get_by_test_id("stMarkdown").first.inner_text()


def test_the_wizard_leads_to_a_streamed_answer(walked: Walked, running_panel: RunningPanel) -> None:
    panel = running_panel.open()
    question, reply = panel.chat(walked.chat_id).messages
    panel.close()
    assert question.content == "What is the capital of France?"
    assert reply.content.strip()
    assert reply.figures is not None
    assert reply.figures["completion_tokens"] > 0


def test_another_tab_shows_the_same_step_and_the_same_chat(walked: Walked, visits: Visits) -> None:
    page = visits.new().open(f"/?step=launch&deployment={walked.deployment_id}")
    expect(page.get_by_text("Where to reach it")).to_be_visible()
    page = visits.new().open(f"/playground?chat={walked.chat_id}")
    expect(page.get_by_text("What is the capital of France?").first).to_be_visible()
    expect(page.get_by_text(FIGURES).first).to_be_visible()


def test_stop_keeps_the_text_that_had_come(walked: Walked, visits: Visits) -> None:
    visitor = visits.new()
    page = visitor.open(f"/playground?deployment={walked.deployment_id}")
    page.get_by_test_id("stChatInputTextArea").fill("Tell a long story about a small computer.")
    page.keyboard.press("Enter")
    reply = page.get_by_test_id("stChatMessage").nth(1)
    expect(reply).to_contain_text(re.compile(r"\w+ \w+ \w+"), timeout=ANSWER_MS)
    page.get_by_test_id("stChatInputStopButton").click()
    visitor.idle()
    chat = value_of(page.url, "chat")
    page = visits.new().open(f"/playground?chat={chat}")  # painted text proves nothing: a new tab
    expect(page.get_by_test_id("stChatMessage").nth(1)).to_contain_text(re.compile(r"\w+ \w+ \w+"))
    expect(page.get_by_text("stopped")).to_be_visible()


def test_the_log_is_streamed_searched_and_downloaded(walked: Walked, visits: Visits) -> None:
    visitor = visits.new()
    page = visitor.open(f"/deployments?id={walked.deployment_id}&tab=logs")
    log = page.get_by_role("log")
    expect(log).to_contain_text("engine.load")
    visitor.picture("logs")
    page.get_by_placeholder("Search the log").fill("no line has these words")
    page.keyboard.press("Enter")
    expect(page.get_by_text("No lines")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert "engine.load" in download.value.path().read_text()


def test_the_history_survives_a_restart_of_panel_and_supervisor(
    walked: Walked, visits: Visits, running_panel: RunningPanel
) -> None:
    running_panel.restart()
    visitor = visits.new()
    page = visitor.open("/deployments")
    expect(page.get_by_text(walked.deployment_id).first).to_be_visible()
    expect(page.get_by_role("button", name="Open playground")).to_be_visible(timeout=30_000)
    expect(page.get_by_test_id("stDataFrame")).to_be_visible()
    visitor.picture("deployments")
    page.get_by_role("button", name="Details").click()
    expect(page.get_by_role("heading", name=re.compile("Attempt 1"))).to_be_visible()
    visitor.idle()
    visitor.picture("deployment")
    page = visitor.open(f"/playground?chat={walked.chat_id}")
    expect(page.get_by_text(walked.answer[:20]).first).to_be_visible()


@pytest.mark.parametrize(
    ("path", "title"),
    [("/?step=model", "部署模型服务"), ("/deployments", "部署记录"), ("/playground", "对话试用")],
)
def test_a_chinese_browser_gets_chinese_pages(
    walked: Walked, visits: Visits, path: str, title: str
) -> None:
    visitor = visits.new(locale="zh-CN", dark=True)
    page = visitor.open(path)
    expect(page.get_by_role("heading", name=title)).to_be_visible()
    page.get_by_test_id("stSidebar").get_by_text("English", exact=True).click()
    expect(page.get_by_test_id("stSidebarNav").get_by_text("Deployments")).to_be_visible()
    assert value_of(page.url, "lang") == "en"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_page_is_accessible(walked: Walked, visits: Visits, dark: bool) -> None:
    visitor = visits.new(dark=dark)
    paths = (
        "/",
        "/?step=model",
        f"/?step=ready&deployment={walked.deployment_id}",
        "/deployments",
        f"/deployments?id={walked.deployment_id}",
        f"/deployments?id={walked.deployment_id}&tab=logs",
        f"/playground?chat={walked.chat_id}",
    )
    excluded = PRIMARY_AS_TEXT if dark else ()
    found = {path: violations(visitor, path, excluded) for path in paths}
    assert not any(found.values()), json.dumps(found, indent=1)


def violations(visitor: Visitor, path: str, excluded: tuple[str, ...]) -> list[str]:
    """What axe finds at WCAG 2.1 A and AA, without what Streamlit breaks by itself."""
    page = visitor.open(path)
    page.wait_for_timeout(800)
    rules = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
    context = {"exclude": [[selector] for selector in excluded]} if excluded else None
    result = Axe().run(page, context=context, options=rules)
    return [
        f"{violation['id']}: {node['html'][:160]} {node.get('failureSummary', '')[:160]}"
        for violation in result.response["violations"]
        if violation["id"] not in STREAMLITS_OWN
        for node in violation["nodes"]
    ]


@pytest.mark.parametrize("path", ["/?step=model", "/deployments", "/playground"])
def test_a_narrow_screen_needs_no_sideways_scrolling(
    walked: Walked, visits: Visits, path: str
) -> None:
    page = visits.new(width=412).open(path)
    too_wide = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(too_wide) <= 0


def test_stop_in_the_browser_ends_the_engine(
    walked: Walked, visits: Visits, running_panel: RunningPanel
) -> None:
    panel = running_panel.open()
    assert processes_of(running_panel.home, "engine.")
    page = visits.new().open(f"/deployments?id={walked.deployment_id}")
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.get_by_role("button", name="Redeploy")).to_be_visible(timeout=30_000)
    deployment = panel.deployment(walked.deployment_id)
    panel.close()
    assert (deployment.desired, deployment.state) == (Desired.STOPPED, State.STOPPED)
    assert [process.pid for process in processes_of(running_panel.home, "engine.")] == []
