"""Which TCP ports of this machine are free, and who has the others."""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection

import psutil

from panel.errors import PanelError, PortInUse

FIRST_PORT = 8080
LAST_PORT = 8999


class CannotListen(PanelError):
    code = "cannot_listen"


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now. Raises CannotListen where none ever could."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((host, port))
            server.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise CannotListen(
                f"Nothing can listen on {host} port {port}: {error.strerror}.",
                fix="Choose an address of this machine and a port above 1023.",
            ) from error
    return True


def require_free(host: str, port: int) -> None:
    """Raises PortInUse, with the name of the process that listens where that can be known."""
    if is_free(host, port):
        return
    owner = owner_of(port)
    raise PortInUse(
        f"Port {port} on {host} is in use{f' by {owner}' if owner else ''}.",
        fix="Choose another port, or none to take the next free one.",
    )


def next_free(host: str, taken: Collection[int] = ()) -> int:
    """The first free port from 8080 on that is not in `taken`. Raises PortInUse without one."""
    for port in range(FIRST_PORT, LAST_PORT + 1):
        if port not in taken and is_free(host, port):
            return port
    raise PortInUse(
        f"No port from {FIRST_PORT} to {LAST_PORT} is free on {host}.",
        fix="Stop a deployment, or choose a port.",
    )


def owner_of(port: int) -> str | None:
    """`name (pid 123)` of the process that listens there; None where we may not know."""
    try:
        connections = psutil.net_connections(kind="tcp")
        for connection in connections:
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,):
                if connection.pid is None:
                    return None
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        return None
    return None
