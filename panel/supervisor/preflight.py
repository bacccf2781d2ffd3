"""The first stage: what can be known to go wrong is found before anything is fetched or started."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from panel.errors import PanelError
from panel.hardware.detect import detect
from panel.hardware.machine import Machine
from panel.models import library
from panel.models.shape import ModelShape, shape_of_source
from panel.models.source import ModelSource, SourceKind, parse
from panel.ports import require_free
from panel.runtimes.engine import PACKAGES_PATH
from panel.runtimes.plan import Plan
from panel.sizing.choice import Sizing, does_not_fit
from panel.sizing.fit import Verdict, sizes

SPARE_DISK_BYTES = 2**30
"""Left for logs, the database and temporary files."""

RECORDED_PACKAGES = ("open-autoglm-panel", "torch", "transformers", "safetensors", "tokenizers")


class NoSpace(PanelError):
    code = "no_space"


def preflight(plan: Plan, models_path: Path, *, is_forced: bool) -> dict[str, Any]:
    """Check port, model folder, memory and disk; gives the attempt's environment.

    is_forced: the person was told that it is too large and wanted it all the same.
    Raises PortInUse, ModelFolderError, SourceError, DoesNotFit or NoSpace.
    """
    if plan.port is not None:
        require_free(plan.host, plan.port)
    source = parse(plan.source)
    shape = shape_of_source(source, models_path)
    machine = detect(models_path)
    fits = sizes(shape, machine, plan.workload)
    if fits[plan.precision].verdict is Verdict.TOO_LARGE and not is_forced:
        raise does_not_fit(Sizing(shape, fits, plan.precision), plan.workload)
    require_space(source, shape, machine, models_path)
    return environment(machine)


def require_space(
    source: ModelSource, shape: ModelShape, machine: Machine, models_path: Path
) -> None:
    """Raises NoSpace where the model would not fit on the disk."""
    is_here = source.kind is SourceKind.LOCAL or library.find(source, models_path) is not None
    stored_bytes = 0 if is_here else 2 * shape.num_params
    if machine.disk_free_bytes < stored_bytes + SPARE_DISK_BYTES:
        raise NoSpace(
            f"{shape.name} needs {(stored_bytes + SPARE_DISK_BYTES) / 2**30:.1f} GiB of disk; "
            f"{models_path} has {machine.disk_free_bytes / 2**30:.1f} GiB free.",
            fix="Free some space, or set AUTOGLM_HOME to a larger disk.",
        )


def environment(machine: Machine) -> dict[str, Any]:
    """What an attempt ran with, to explain later why another one differed."""
    return {
        "packages": {name: _version(name) for name in RECORDED_PACKAGES},
        "python": platform.python_version(),
        "kernel": platform.release(),
        "driver": machine.driver_version,
        "commit": _commit(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The git commit of a working copy; None for an installed package."""
    if not (PACKAGES_PATH / ".git").exists():
        return None
    command = ["git", "-C", str(PACKAGES_PATH), "rev-parse", "HEAD"]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=5, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
