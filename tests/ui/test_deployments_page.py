"""The deployments page: cards, history with filters, and everything about one deployment."""

from __future__ import annotations

import pytest

from db.errors import NoSuchRow
from db.models import Desired
from panel.deployments import Panel
from panel.errors import NotFound
from tests.ui import scenes
from tests.ui.look import OpenPage, button, has_button, words


def test_without_deployments_it_offers_the_first_step(open_page: OpenPage) -> None:
    page = open_page("deployments")
    assert "Nothing was started yet" in words(page)
    assert has_button(page, "first")


def test_the_history_has_one_row_a_deployment(open_page: OpenPage, panel_here: Panel) -> None:
    made = {scenes.ready(panel_here).id, scenes.stopped(panel_here, "old").id}
    page = open_page("deployments")
    assert set(page.dataframe[0].value["id"]) == made


def test_filters_come_from_the_address(open_page: OpenPage, panel_here: Panel) -> None:
    scenes.stopped(panel_here, "old")
    broken = scenes.failed(panel_here, "broken")
    page = open_page("deployments", state=["failed"])
    assert list(page.dataframe[0].value["id"]) == [broken.id]
    page = open_page("deployments", q="brok")
    assert list(page.dataframe[0].value["id"]) == [broken.id]


def test_a_filter_that_matches_nothing_can_be_cleared(
    open_page: OpenPage, panel_here: Panel
) -> None:
    scenes.stopped(panel_here)
    page = open_page("deployments", q="zzzz")
    assert "No deployment matches" in words(page)
    button(page, "clear_filters").click().run()
    assert len(page.dataframe[0].value) == 1


def test_stop_on_a_card_asks_the_supervisor_to_end_it(
    open_page: OpenPage, panel_here: Panel
) -> None:
    deployment = scenes.ready(panel_here)
    page = open_page("deployments")
    button(page, f"stop_{deployment.id}").click().run()
    assert panel_here.deployment(deployment.id).desired is Desired.STOPPED


@pytest.mark.parametrize("tab", ["stages", "logs", "settings", "events", "memory"])
def test_every_view_of_one_deployment_draws(
    open_page: OpenPage, panel_here: Panel, tab: str
) -> None:
    deployment = scenes.ready(panel_here)
    page = open_page("deployments", id=deployment.id, tab=tab)
    assert page.title[0].value == deployment.name
    assert not page.error


def test_events_are_told_in_the_words_of_the_pages(open_page: OpenPage, panel_here: Panel) -> None:
    deployment = scenes.stopped(panel_here)
    page = open_page("deployments", id=deployment.id, tab="events")
    assert "Starting → **Ready**" in words(page)
    page = open_page("deployments", locale="zh-CN", id=deployment.id, tab="events")
    assert "启动中 → **就绪**" in words(page)
    assert f"请求停止 {deployment.name}。" in words(page)


def test_a_failed_deployment_shows_its_cause_and_can_be_redeployed(
    open_page: OpenPage, panel_here: Panel
) -> None:
    deployment = scenes.failed(panel_here)
    page = open_page("deployments", id=deployment.id)
    assert "15.2 GiB" in page.error[0].value
    assert has_button(page, "redeploy")


def test_only_an_ended_deployment_can_be_deleted(open_page: OpenPage, panel_here: Panel) -> None:
    running, ended = scenes.ready(panel_here), scenes.stopped(panel_here, "old")
    assert not has_button(open_page("deployments", id=running.id), "delete")
    button(open_page("deployments", id=ended.id), "delete").click().run()
    with pytest.raises((NotFound, NoSuchRow)):
        panel_here.deployment(ended.id)
