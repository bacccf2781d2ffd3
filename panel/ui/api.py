"""The panel's HTTP routes beside the pages: health, and the logs of a deployment as a stream.

The database is the source: a reader gets the newest lines, then what arrives after them. Nothing
here writes. Database calls run in worker threads, never on the event loop.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from typing import Any

from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from db.errors import DatabaseError, NoSuchRow
from db.models import LogLine
from panel.deployments import Panel
from panel.errors import NotFound, PanelError
from panel.ui.opened import opened_panel

POLL_S = 0.5
HEARTBEAT_POLLS = 30  # a comment every 15 s keeps proxies from closing a quiet stream
MAX_LINES = 5000
STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@dataclass(frozen=True)
class LogQuery:
    """What a reader asked for. level None: every level; text empty: no search."""

    deployment_id: str
    text: str = ""
    level: str | None = None
    limit: int = 1000
    after_id: int | None = None


def routes() -> list[BaseRoute]:
    return [
        Route("/api/health", health),
        Route("/api/deployments/{id}/logs", logs),
        Route("/api/deployments/{id}/logs.txt", log_file),
    ]


async def health(request: Request) -> Response:
    """Whether pages can be drawn: the database opens, and whether a supervisor acts."""
    try:
        alive = await run_in_threadpool(lambda: opened_panel().supervisor_alive())
    except (DatabaseError, PanelError) as error:
        return _refusal(error, 503)
    return JSONResponse({"status": "ok", "supervisor": alive})


async def logs(request: Request) -> Response:
    """Server-sent events: arrays of lines, oldest first; `end` when no more can come."""
    try:
        query = read_query(request)
        panel = await run_in_threadpool(opened_panel)
        found = await run_in_threadpool(panel.deployment, query.deployment_id)
    except ValueError as error:
        return JSONResponse({"error": {"code": "query", "message": str(error)}}, 400)
    except (NoSuchRow, NotFound) as error:
        return _refusal(error, 404)
    except (DatabaseError, PanelError) as error:
        return _refusal(error, 503)
    return StreamingResponse(
        stream(panel, replace(query, deployment_id=found.id)),
        media_type="text/event-stream",
        headers=STREAM_HEADERS,
    )


async def log_file(request: Request) -> Response:
    """Every kept line as a text file, read from the database in chunks."""
    try:
        panel = await run_in_threadpool(opened_panel)
        found = await run_in_threadpool(panel.deployment, request.path_params["id"])
    except (NoSuchRow, NotFound) as error:
        return _refusal(error, 404)
    except (DatabaseError, PanelError) as error:
        return _refusal(error, 503)
    return StreamingResponse(
        iterate_in_threadpool(_text_lines(panel, found.id)),
        media_type="text/plain; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{found.id}.log"'},
    )


def read_query(request: Request) -> LogQuery:
    """Read the query string. Raises ValueError for a limit or an id that is not a number.

    A browser that reconnects sends Last-Event-ID, which then stands for after_id.
    """
    given = request.query_params
    after = request.headers.get("last-event-id") or given.get("after_id")
    return LogQuery(
        deployment_id=request.path_params["id"],
        text=given.get("q", "").strip(),
        level=given.get("level") or None,
        limit=max(1, min(int(given.get("limit", "1000")), MAX_LINES)),
        after_id=int(after) if after else None,
    )


async def stream(panel: Panel, query: LogQuery) -> AsyncIterator[str]:
    """Yield the newest lines at once, then follow until the deployment is final."""
    quiet_polls = 0
    yield "retry: 2000\n\n"
    while True:
        finished = await run_in_threadpool(_is_final, panel, query.deployment_id)
        lines, seen_id = await run_in_threadpool(
            panel.new_logs,
            query.deployment_id,
            text=query.text,
            level=query.level,
            after_id=query.after_id,
            limit=query.limit,
        )
        if lines:
            yield f"id: {lines[-1].id}\ndata: {json.dumps([as_row(line) for line in lines])}\n\n"
        elif finished:
            yield "event: end\ndata: {}\n\n"
            return
        query = replace(query, after_id=seen_id, limit=MAX_LINES)
        quiet_polls = 0 if lines else quiet_polls + 1
        if quiet_polls and quiet_polls % HEARTBEAT_POLLS == 0:
            yield ": still here\n\n"
        await asyncio.sleep(POLL_S)


def as_row(line: LogLine) -> dict[str, Any]:
    return {
        "id": line.id,
        "at": line.at.isoformat(),
        "level": line.level,
        "source": line.source,
        "text": line.text,
    }


def _text_lines(panel: Panel, deployment_id: str) -> Iterator[str]:
    for line in panel.all_logs(deployment_id):
        yield f"{line.at.isoformat()} {line.level.upper():7} {line.source} {line.text}\n"


def _is_final(panel: Panel, deployment_id: str) -> bool:
    return panel.deployment(deployment_id).state.is_final


def _refusal(error: DatabaseError | PanelError, status: int) -> Response:
    code = getattr(error, "code", type(error).__name__)
    body = {"error": {"code": code, "message": error.message, "fix": error.fix}}
    return JSONResponse(body, status)
