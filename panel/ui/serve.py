"""`python -m panel.ui.serve`: one port with the pages, a small JSON API and the log stream."""

from __future__ import annotations

import errno
import logging
import socket
import sys
from pathlib import Path

import streamlit as st
import uvicorn
from starlette.middleware import Middleware
from streamlit import config as streamlit_config
from streamlit.web import bootstrap

from engine.errors import ConfigError
from panel.errors import PanelError, PortInUse, SettingsError
from panel.private import make_private_folder
from panel.settings import Settings
from panel.ui.api import routes
from panel.ui.gate import LOOPBACK_HOSTS, Gate, is_loopback, read_or_make_token

SCRIPT = Path(__file__).with_name("app.py")
GRACE_S = 2  # open event streams are cut this long after the request to stop


def create_app(settings: Settings, *, token: str | None) -> st.App:
    """The whole panel as one ASGI application. token: see Gate."""
    return st.App(SCRIPT, routes=routes(), middleware=[Middleware(Gate, token=token)])


def configure_streamlit(settings: Settings) -> None:
    """Load panel/ui/.streamlit/config.toml and set what depends on the settings.

    Raises SettingsError when Streamlit no longer has its hidden garbage-collection option.
    """
    gated = not is_loopback(settings.host)
    bootstrap.load_config_options(
        {
            "server.address": settings.host,
            "server.port": settings.port,
            # With the gate the cookie is bound to the host name; without it, only loopback's names.
            "server.allowedHosts": ["*"] if gated else sorted(LOOPBACK_HOSTS),
            "browser.gatherUsageStats": False,
        }
    )
    try:
        collects = streamlit_config.get_option("runner.postScriptGC")
    except RuntimeError:
        collects = "missing"
    if collects is not False:
        raise SettingsError(
            f"Streamlit {st.__version__}: the option runner.postScriptGC is {collects}, not false.",
            fix="Install Streamlit 1.67, and keep panel/ui/.streamlit/config.toml beside app.py.",
        )


def bind(host: str, port: int) -> socket.socket:
    """Listen on the address before anything else starts. Raises PortInUse."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"Port {port} on {host} is in use by another program.",
                fix="Choose another with AUTOGLM_PORT, or stop that program.",
            ) from None
        raise SettingsError(
            f"The panel cannot listen on {host}:{port}: {error.strerror}.",
            fix="Set AUTOGLM_HOST to an address of this machine and AUTOGLM_PORT to a free port.",
        ) from None
    return listener


def address(settings: Settings, token: str | None) -> str:
    """The address to open in a browser; beyond loopback it carries the token."""
    host = socket.gethostname() if settings.host in ("0.0.0.0", "::") else settings.host
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{settings.port}/" + (f"?token={token}" if token else "")


def serve(settings: Settings) -> None:
    """Run the panel until it is asked to stop."""
    gated = not is_loopback(settings.host)
    make_private_folder(settings.home_path)
    token = read_or_make_token(settings.keys_path / "panel.token") if gated else None
    listener = bind(settings.host, settings.port)
    app = create_app(settings, token=token)
    configure_streamlit(settings)
    sys.stdout.write(f"Panel: {address(settings, token)}\n")
    sys.stdout.flush()
    uvicorn.Server(
        uvicorn.Config(
            app,
            access_log=False,
            log_level=settings.log_level,
            ws="websockets-sansio",
            ws_ping_interval=30,
            ws_ping_timeout=30,
            timeout_graceful_shutdown=GRACE_S,
        )
    ).run(sockets=[listener])


def main() -> int:
    try:
        settings = Settings.from_environment()
        logging.basicConfig(level=settings.log_level.upper())
        for chatty in ("alembic", "httpx"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        serve(settings)
    except (PanelError, ConfigError) as error:
        sys.stderr.write(f"error: {error.message}\nfix: {error.fix}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
