"""`python -m engine.launch --model-path DIR …`: start one engine.

Exit codes: 0 asked to stop, 2 an option or the model must be changed first, 1 anything else.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
from collections.abc import Sequence

from engine import logs
from engine.config import EngineConfig
from engine.errors import ConfigError, EngineError, PortInUse

EXIT_REFUSED = 2
_BACKLOG = 2048


def main(argv: Sequence[str]) -> int:
    """Run the command; gives the exit code."""
    if "--help" in argv or "-h" in argv:
        sys.stdout.write(help_text())
        return 0
    logs.setup()
    try:
        config = EngineConfig.parse(argv)
        logs.setup(config.log_level)
        listener = bind(config.host, config.port)
        from engine.api.keys import read_keys  # the API's imports only once the port is ours
        from engine.api.server import serve
        from engine.api.shares import shares
        from engine.model.gguf import with_folder

        keys = read_keys(config.api_key_file)
        config = with_folder(config)
        replica_shares = shares(config)
    except EngineError as error:
        logs.fatal(error)
        return EXIT_REFUSED
    return asyncio.run(serve(config, listener, keys, replica_shares))


def help_text() -> str:
    """Every option with its default, what is allowed and what it does."""
    lines = ["usage: python -m engine.launch --model-path DIR [options]", ""]
    for info in EngineConfig.options():
        lines.append(f"  {info.flag}{'' if info.kind is bool else ' VALUE'}")
        lines.append(f"      {info.help}")
        default = "required" if info.required else f"default: {info.default}"
        lines.append(f"      {default}" + (f"; {info.allowed}" if info.allowed else ""))
    return "\n".join(lines) + "\n"


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens already, so that the port is surely ours and clients may queue.

    Raises PortInUse, or ConfigError for a port that is forbidden or an address not of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise ConfigError(f"--host {host} is no address: {error.strerror}.") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise _cannot_listen(host, port, error) from error
    return listener


def _cannot_listen(host: str, port: int, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        return PortInUse(
            f"Port {port} on {host} is in use by another program.",
            fix="Choose another --port, or stop what listens there.",
        )
    if error.errno == errno.EACCES:
        return ConfigError(
            f"Port {port} on {host} is not allowed for this user.", fix="Choose a port above 1023."
        )
    reason = os.strerror(error.errno) if error.errno else str(error)
    return ConfigError(f"Cannot listen on {host} port {port}: {reason}.", fix="Check --host.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
