"""This machine's facts gathered, or another machine's read from a file."""

from __future__ import annotations

import json
import os
import platform
import socket
from pathlib import Path

from panel.errors import SettingsError
from panel.hardware import containers, host
from panel.hardware.machine import ContainerRuntime, Machine, Problem
from panel.hardware.nvidia import read_nvidia


def detect(models_path: Path) -> Machine:
    """The machine that this runs on. models_path: where models will lie, for the disk's space."""
    cpu, memory, nvidia = host.read_cpu(), host.read_memory(), read_nvidia()
    docker = containers.ask_docker(containers.find_docker())
    return Machine(
        hostname=socket.gethostname(),
        os_name=host.read_os_name(),
        kernel=os.uname().release,
        architecture=platform.machine(),
        python=platform.python_version(),
        cpu_name=cpu.name,
        cpu_cores=cpu.cores,
        cpu_flags=cpu.flags,
        ram_bytes=memory.total_bytes,
        ram_available_bytes=memory.available_bytes,
        shm_bytes=host.shm_bytes(),
        disk_free_bytes=host.disk_free_bytes(models_path),
        in_container=host.is_in_container(),
        gpus=nvidia.gpus,
        links=nvidia.links,
        driver_version=nvidia.driver_version,
        cuda_driver_version=nvidia.cuda_driver_version,
        container_runtime=docker if isinstance(docker, ContainerRuntime) else None,
        problems=(*nvidia.problems, *([docker] if isinstance(docker, Problem) else [])),
    )


def read_machine(path: Path) -> Machine:
    """A machine from a JSON file as `autoglm detect --json` prints it. Raises SettingsError."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            f"The machine file {path} cannot be read: {error.strerror}.",
            fix="`autoglm detect --json > FILE` writes one.",
        ) from error
    except json.JSONDecodeError as error:
        raise SettingsError(
            f"The machine file {path} is not JSON: {error.msg} in line {error.lineno}, "
            f"column {error.colno}.",
            fix="`autoglm detect --json > FILE` writes one.",
        ) from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"The machine file {path} is not UTF-8 text.") from error
    return Machine.from_dict(data, origin=f"The machine file {path}")
