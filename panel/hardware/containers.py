"""Whether a container engine answers, asked with a short timeout and only if it seems to be there.

Asking changes nothing; the engine's socket is closed again at once.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

from panel.hardware.machine import ContainerRuntime, Problem, ProblemCode

TIMEOUT_S = 1.0


def find_docker(
    env: Mapping[str, str] = os.environ, system_socket: Path = Path("/var/run/docker.sock")
) -> str | None:
    """The address of Docker: DOCKER_HOST, the system's socket, or one of this user (rootless)."""
    if env.get("DOCKER_HOST"):
        return env["DOCKER_HOST"]
    rootless = Path(env.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}") / "docker.sock"
    return next((f"unix://{path}" for path in (system_socket, rootless) if path.exists()), None)


def ask_docker(address: str | None) -> ContainerRuntime | Problem | None:
    """What answers at `address`, why it does not, or None where there is no Docker at all."""
    if address is None:
        return None
    try:
        _knock(address)
    except OSError as error:
        return _problem(address, error.strerror or str(error))
    import docker  # takes 0.2 s, and most machines without Docker never need it
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    try:
        client = docker.DockerClient(base_url=address, version="auto", timeout=TIMEOUT_S)
        try:
            info = client.info()
        finally:
            client.close()
    except (DockerException, RequestException, OSError) as error:
        return _problem(address, str(error))
    return ContainerRuntime("docker", str(info.get("ServerVersion", "")), has_gpu_runtime(info))


def has_gpu_runtime(info: Mapping[str, object]) -> bool:
    """Whether `docker info` names NVIDIA's runtime, or GPUs offered through CDI."""
    runtimes, devices = info.get("Runtimes"), info.get("DiscoveredDevices")
    offered = [d for d in devices if isinstance(d, Mapping)] if isinstance(devices, list) else []
    return (isinstance(runtimes, Mapping) and "nvidia" in runtimes) or any(
        str(device.get("ID", "")).startswith("nvidia.com/gpu") for device in offered
    )


def _knock(address: str) -> None:
    """Connect once and close: the SDK leaves a refused socket open and buries the reason."""
    if address.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as knocking:
            knocking.settimeout(TIMEOUT_S)
            knocking.connect(address.removeprefix("unix://"))


def _problem(address: str, reason: str) -> Problem:
    message = f"Docker at {address} does not answer: {reason}."
    return Problem(ProblemCode.CONTAINER_RUNTIME, message, _FIX)


_FIX = (
    "Start it (`sudo systemctl start docker`), and let this user reach it (the group docker, or "
    "rootless Docker). Without it, engines run as plain processes."
)
