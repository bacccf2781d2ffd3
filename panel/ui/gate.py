"""Who may speak to the panel: known host names on loopback, holders of the token beyond it.

Pure ASGI, because a Streamlit page lives on its WebSocket and `BaseHTTPMiddleware` never sees one.
As in Jupyter, the token in the printed address becomes an HttpOnly cookie; scripts send it as
`Authorization: Bearer`.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from panel.private import make_private_folder

COOKIE = "autoglm_panel"
COOKIE_DAYS = 30
OPEN_PATHS = frozenset({"/_stcore/health", "/api/health"})
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
WEBSOCKET_REFUSED = 4401  # application code, after HTTP's 401


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach this address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_or_make_token(path: Path) -> str:
    """The panel's access token, kept in a file that only its owner reads (0600).

    An empty file, left by a full disk or a kill between making and writing it, gets a new token.
    """
    if path.exists() and (token := path.read_text().strip()):
        return token
    token = secrets.token_urlsafe(24)
    make_private_folder(path.parent)
    path.touch(mode=0o600)
    path.write_text(token + "\n")
    return token


@dataclass(frozen=True)
class Pass:
    """What one connection brought along."""

    host: str
    cookie: str
    bearer: str
    query_token: str


def read_pass(scope: Scope) -> Pass:
    """Collect host, cookie, bearer and query token of an HTTP or WebSocket scope."""
    headers = {name.decode("latin1"): value.decode("latin1") for name, value in scope["headers"]}
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    query = dict(parse_qsl(scope["query_string"].decode("latin1")))
    return Pass(
        host=_host(headers),
        cookie=_cookie(headers),
        bearer=bearer if scheme.lower() == "bearer" else "",
        query_token=query.get("token", ""),
    )


def _host(headers: Mapping[str, str]) -> str:
    try:
        return urlsplit("//" + headers.get("host", "")).hostname or ""
    except ValueError:  # such as "[::1"
        return ""


def _cookie(headers: Mapping[str, str]) -> str:
    try:
        jar = SimpleCookie(headers.get("cookie", ""))
    except CookieError:
        return ""
    return jar[COOKIE].value if COOKIE in jar else ""


class Gate:
    """Lets a connection through, trades a token for a cookie, or refuses with the reason."""

    def __init__(self, app: ASGIApp, *, token: str | None = None) -> None:
        """token: None when the panel listens on loopback only; then the host name is checked."""
        assert token != "", "an empty token would let everybody in"
        self.app = app
        self.token = token
        self.cookie = hmac.digest(token.encode(), b"cookie", hashlib.sha256).hex() if token else ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"] in OPEN_PATHS:
            return await self.app(scope, receive, send)
        brought = read_pass(scope)
        if self.admits(brought):
            return await self.app(scope, receive, send)
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": WEBSOCKET_REFUSED})
        return await self.answer(scope, brought)(scope, receive, send)

    def admits(self, brought: Pass) -> bool:
        if self.token is None:
            return brought.host in LOOPBACK_HOSTS or is_loopback(brought.host)
        return _same(brought.cookie, self.cookie) or _same(brought.bearer, self.token)

    def answer(self, scope: Scope, brought: Pass) -> Response:
        """The redirect that sets the cookie, or the refusal."""
        if self.token is None:
            return PlainTextResponse(
                f"The panel does not answer to the host name {brought.host!r}. "
                "Open it as http://127.0.0.1, or listen beyond loopback with AUTOGLM_HOST.",
                403,
            )
        if not _same(brought.query_token, self.token):
            return PlainTextResponse(
                "This panel needs its access token. Open the address that `autoglm up` printed.",
                401,
            )
        response = RedirectResponse(_without_token(scope), 303)
        response.set_cookie(
            COOKIE, self.cookie, max_age=COOKIE_DAYS * 86400, httponly=True, samesite="strict"
        )
        return response


def _without_token(scope: Scope) -> str:
    query = parse_qsl(scope["query_string"].decode("latin1"))
    rest = urlencode([(name, value) for name, value in query if name != "token"])
    path = "/" + scope["path"].lstrip("/")  # never //host, which a browser reads as an address
    return path + ("?" + rest if rest else "")


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(), wanted.encode())
