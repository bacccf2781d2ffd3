"""The panel's HTTP routes: health, and logs as a stream and as a file."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from sqlalchemy import QueuePool
from starlette.applications import Starlette

from panel.deployments import Panel
from panel.ui.api import routes
from tests.ui import scenes


def get(path: str, **headers: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(Starlette(routes=routes()))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(ask())


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    """All lines of a stream that has ended."""
    data = [line[6:] for line in answer.text.splitlines() if line.startswith("data: [")]
    return [row for text in data for row in json.loads(text)]


@pytest.fixture
def ended(panel_here: Panel) -> str:
    """A stopped deployment with 20 lines: its stream ends by itself."""
    return scenes.stopped(panel_here).id


def test_health_tells_whether_a_supervisor_acts(panel_here: Panel) -> None:
    assert get("/api/health").json() == {"status": "ok", "supervisor": False}
    scenes.supervisor_beats(panel_here)
    assert get("/api/health").json()["supervisor"] is True


def test_a_stream_gives_the_newest_lines_in_order_and_says_when_no_more_can_come(
    ended: str,
) -> None:
    answer = get(f"/api/deployments/{ended}/logs?limit=5")
    assert answer.headers["content-type"].startswith("text/event-stream")
    rows = events(answer)
    assert [row["text"].split()[2] for row in rows] == ["15", "16", "17", "18", "19"]
    assert "event: end" in answer.text


def test_a_reader_that_reconnects_gets_only_what_it_has_not_seen(ended: str) -> None:
    seen = events(get(f"/api/deployments/{ended}/logs?limit=20"))
    later = get(f"/api/deployments/{ended}/logs", **{"Last-Event-ID": str(seen[-3]["id"])})
    assert [row["id"] for row in events(later)] == [row["id"] for row in seen[-2:]]


def test_a_search_finds_lines_in_order_and_within_a_level(ended: str) -> None:
    found = events(get(f"/api/deployments/{ended}/logs?q=layer+1"))
    assert [row["id"] for row in found] == sorted(row["id"] for row in found)
    assert len({row["id"] for row in found}) == len(found) > 0
    assert all("layer" in row["text"] for row in found)
    warnings = events(get(f"/api/deployments/{ended}/logs?q=layer&level=warning"))
    assert {row["level"] for row in warnings} == {"warning"}


def test_what_arrives_during_a_search_is_searched_as_well(panel_here: Panel) -> None:
    deployment = scenes.starting(panel_here)
    last = panel_here.logs(deployment.id)[-1].id
    scenes.log(panel_here, deployment.id, deployment.attempts[-1].id, count=3)
    lines, seen_id = panel_here.new_logs(deployment.id, text="LAYER 2", after_id=last)
    assert [line.text.split()[2] for line in lines] == ["2"]
    assert seen_id == last + 3


def test_the_download_has_every_line(ended: str) -> None:
    answer = get(f"/api/deployments/{ended}/logs.txt")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert f'filename="{ended}.log"' in answer.headers["content-disposition"]
    assert len(answer.text.splitlines()) == 20


def test_the_beginning_of_an_id_is_enough(ended: str) -> None:
    answer = get(f"/api/deployments/{ended[:-1]}/logs.txt")
    assert f'filename="{ended}.log"' in answer.headers["content-disposition"]
    assert len(answer.text.splitlines()) == 20
    assert len(events(get(f"/api/deployments/{ended[:-1]}/logs"))) == 20


def test_all_lines_are_read_in_more_than_one_chunk_without_a_session_between(
    panel_here: Panel,
) -> None:
    deployment = scenes.starting(panel_here)
    count = len(panel_here.logs(deployment.id, limit=10_000))
    scenes.log(panel_here, deployment.id, deployment.attempts[-1].id, count=2_500)
    reader = panel_here.all_logs(deployment.id)
    next(reader)
    pool = panel_here.database._engine.pool
    assert isinstance(pool, QueuePool)
    assert pool.checkedout() == 0, "a slow reader must not hold a transaction"
    ids = [line.id for line in reader]
    assert len(ids) == count + 2_500 - 1
    assert ids == sorted(set(ids))


@pytest.mark.parametrize("path", ["logs", "logs.txt"])
def test_an_unknown_deployment_is_not_found(panel_here: Panel, path: str) -> None:
    answer = get(f"/api/deployments/d-nowhere/{path}")
    assert answer.status_code == 404
    assert "d-nowhere" in answer.json()["error"]["message"]


def test_a_limit_that_is_no_number_is_refused(ended: str) -> None:
    assert get(f"/api/deployments/{ended}/logs?limit=many").status_code == 400
