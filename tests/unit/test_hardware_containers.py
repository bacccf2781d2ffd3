"""Docker is asked where it is, over a real socket, and its silence costs a second at most."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any

import pytest

from panel.hardware import containers
from panel.hardware.containers import ask_docker, find_docker
from panel.hardware.machine import ContainerRuntime, Problem, ProblemCode

VERSION = {"Version": "28.2.2", "ApiVersion": "1.50", "MinAPIVersion": "1.24"}


@contextmanager
def docker(path: Path, info: dict[str, Any], status: int = 200) -> Iterator[str]:
    """A server on a Unix socket that answers the two questions that are asked."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = json.dumps(VERSION if self.path.endswith("/version") else info).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)

        def address_string(self) -> str:
            return "test"

        def log_message(self, format: str, *args: Any) -> None:
            return

    with ThreadingUnixStreamServer(str(path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"unix://{path}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("info", "has_gpu_runtime"),
    [
        ({"Runtimes": {"runc": {}, "nvidia": {}}}, True),
        ({"Runtimes": {"runc": {}}}, False),
        ({"DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}]}, True),
        ({"DiscoveredDevices": None, "Runtimes": None}, False),
    ],
)
def test_a_docker_that_answers_is_described(
    tmp_path: Path, info: dict[str, Any], has_gpu_runtime: bool
) -> None:
    with docker(tmp_path / "s", {"ServerVersion": "28.2.2", **info}) as address:
        assert ask_docker(address) == ContainerRuntime("docker", "28.2.2", has_gpu_runtime)


def test_a_docker_that_answers_with_an_error_is_a_problem(tmp_path: Path) -> None:
    with docker(tmp_path / "s", {"message": "broken"}, status=500) as address:
        answer = ask_docker(address)
    assert isinstance(answer, Problem)
    assert (answer.code, bool(answer.fix)) == (ProblemCode.CONTAINER_RUNTIME, True)


def test_a_docker_that_never_answers_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "TIMEOUT_S", 0.05)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        answer = ask_docker(f"unix://{tmp_path}/s")
    assert isinstance(answer, Problem)
    assert "timed out" in answer.message


def test_a_socket_that_nobody_serves_is_a_problem_with_its_reason(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    answer = ask_docker(f"unix://{tmp_path}/s")
    assert isinstance(answer, Problem)
    assert "Connection refused" in answer.message


def test_an_address_that_makes_no_sense_is_a_problem() -> None:
    assert isinstance(ask_docker("nonsense"), Problem)


def test_docker_is_looked_for_where_it_may_be(tmp_path: Path) -> None:
    nowhere = tmp_path / "none.sock"
    assert ask_docker(find_docker({"XDG_RUNTIME_DIR": str(tmp_path)}, nowhere)) is None
    assert find_docker({"DOCKER_HOST": "tcp://h:2375"}, nowhere) == "tcp://h:2375"
    (tmp_path / "docker.sock").touch()
    rootless = find_docker({"XDG_RUNTIME_DIR": str(tmp_path)}, nowhere)
    assert rootless == f"unix://{tmp_path}/docker.sock"
