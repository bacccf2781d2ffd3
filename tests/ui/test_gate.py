"""The gate: known hosts on loopback, the token beyond it, over HTTP and WebSocket alike."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from panel.ui.gate import COOKIE, Gate, is_loopback, read_or_make_token

TOKEN = "s3cret-token"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """What lies behind the gate."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"inside"})


def get(
    path: str,
    *,
    token: str | None = TOKEN,
    host: str = "panel.example",
    headers: dict[str, str] | None = None,
) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(Gate(app, token=token))
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
            return await client.get(path, headers=headers or {})

    return asyncio.run(ask())


def connect(headers: list[tuple[bytes, bytes]], token: str | None = TOKEN) -> list[str]:
    """Open a WebSocket; gives the types of the messages that came back."""
    sent: list[str] = []

    async def behind(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})

    async def send(message: Any) -> None:
        sent.append(message["type"])

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    scope = {
        "type": "websocket",
        "path": "/_stcore/stream",
        "query_string": b"",
        "headers": headers,
    }
    asyncio.run(Gate(behind, token=token)(scope, receive, send))
    return sent


def test_without_the_token_nothing_is_shown() -> None:
    answer = get("/")
    assert answer.status_code == 401
    assert "access token" in answer.text


def test_the_token_of_the_address_becomes_a_cookie_and_leaves_the_address() -> None:
    answer = get(f"/deployments?id=d-1&token={TOKEN}")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/deployments?id=d-1"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert TOKEN not in cookie


def test_the_cookie_lets_pages_and_websockets_in() -> None:
    cookie = get(f"/?token={TOKEN}").cookies[COOKIE]
    sent = f"{COOKIE}={cookie}"
    assert get("/", headers={"cookie": sent}).text == "inside"
    assert connect([(b"cookie", sent.encode())]) == ["websocket.accept"]


def test_a_websocket_without_the_cookie_is_closed() -> None:
    assert connect([]) == ["websocket.close"]
    assert connect([(b"cookie", f"{COOKIE}={TOKEN}".encode())]) == ["websocket.close"]


def test_a_script_may_send_the_token_as_bearer() -> None:
    assert get("/api/x", headers={"Authorization": f"Bearer {TOKEN}"}).text == "inside"
    assert get("/api/x", headers={"Authorization": "Bearer wrong"}).status_code == 401


@pytest.mark.parametrize("path", ["/_stcore/health", "/api/health"])
def test_health_is_open(path: str) -> None:
    assert get(path).text == "inside"


@pytest.mark.parametrize("path", ["//evil.example/x", "/\\evil.example"])
def test_the_redirect_stays_on_this_host(path: str) -> None:
    location = get(f"{path}?token={TOKEN}").headers["location"]
    assert not location.startswith("//")
    assert location.startswith("/")


@pytest.mark.parametrize("host", ["127.0.0.1:8501", "localhost:8501", "[::1]:8501"])
def test_on_loopback_the_names_of_loopback_need_no_token(host: str) -> None:
    assert get("/", token=None, host=host).text == "inside"


def test_on_loopback_another_host_name_is_refused_against_dns_rebinding() -> None:
    assert get("/", token=None, host="attacker.example").status_code == 403
    assert connect([(b"host", b"attacker.example")], token=None) == ["websocket.close"]
    assert connect([(b"host", b"localhost:8501")], token=None) == ["websocket.accept"]


def test_the_token_is_made_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "panel.token"
    token = read_or_make_token(path)
    assert len(token) > 24
    assert read_or_make_token(path) == token
    assert path.stat().st_mode & 0o077 == 0


def test_an_empty_token_file_opens_nothing_and_gets_a_new_token(tmp_path: Path) -> None:
    """A full disk, or a kill between making the file and writing it."""
    path = tmp_path / "panel.token"
    path.touch(mode=0o600)
    assert len(read_or_make_token(path)) > 24
    with pytest.raises(AssertionError, match="everybody"):
        Gate(app, token="")


def test_a_host_header_that_is_no_host_is_refused() -> None:
    assert get("/", token=None, headers={"host": "[::1"}).status_code == 403


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("gpu-1", False)],
)
def test_what_counts_as_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
