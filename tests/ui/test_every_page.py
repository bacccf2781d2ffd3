"""What holds for every page: both languages, a read-only database, a first visit."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.runtime.context import ContextProxy

from panel.deployments import Panel
from panel.ui import i18n, opened
from tests.ui import scenes
from tests.ui.look import OpenPage, asked, button, words

PAGES = {
    "setup": ("Set up a model server", "部署模型服务"),
    "deployments": ("Deployments", "部署记录"),
    "playground": ("Playground", "对话试用"),
}


@pytest.mark.parametrize("page", PAGES)
def test_the_browsers_language_is_used(open_page: OpenPage, page: str) -> None:
    english, chinese = PAGES[page]
    assert open_page(page).title[0].value == english
    assert open_page(page, locale="zh-CN").title[0].value == chinese


@pytest.mark.parametrize("page", PAGES)
def test_the_language_of_the_address_comes_before_the_browsers(
    open_page: OpenPage, page: str
) -> None:
    assert open_page(page, locale="en-US", lang="zh").title[0].value == PAGES[page][1]


def test_the_language_of_an_earlier_visit_comes_before_the_browsers(
    open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ContextProxy, "cookies", {i18n.COOKIE: "zh"})
    assert open_page(locale="en-US").title[0].value == PAGES["setup"][1]
    assert open_page(locale="en-US", lang="en").title[0].value == PAGES["setup"][0]


def test_an_unreadable_database_is_explained_on_the_page(
    open_page: OpenPage, panel_here: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "autoglm.db").write_bytes(b"this is not a database" * 100)
    monkeypatch.setenv("AUTOGLM_HOME", str(broken))
    page = open_page("deployments")
    assert str(broken) in page.error[0].value


def test_a_read_only_database_is_still_read_and_launch_says_why_it_cannot(
    open_page: OpenPage, panel_here: Panel, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = scenes.stopped(panel_here)
    path = panel_here.settings.home_path / "autoglm.db"
    monkeypatch.setenv("AUTOGLM_DATABASE_URL", f"sqlite:///file:{path}?mode=ro&uri=true")
    history = open_page("deployments")
    assert list(history.dataframe[0].value["id"]) == [deployment.id]
    wizard = open_page("setup", step="model")
    assert not wizard.error, "sizing writes nothing"
    button(wizard, "launch").click().run()
    assert str(path) in wizard.error[0].value
    opened.opened_panel().close()


def test_switching_the_language_keeps_the_step(open_page: OpenPage, panel_here: Panel) -> None:
    deployment = scenes.starting(panel_here)
    page = open_page("setup", step="launch", deployment=deployment.id)
    page.segmented_control(key="language_picked").set_value("zh").run()
    assert asked(page, "deployment") == deployment.id
    assert "加载权重" in " ".join(status.label for status in page.status)


def test_a_value_that_nobody_offers_is_ignored(open_page: OpenPage) -> None:
    page = open_page("setup", step="nowhere", precision="float3", context="-7", port="99999999")
    assert page.title[0].value == "Set up a model server"
    button(page, "to_model").click().run()
    assert "autoglm launch demo" in words(page)
