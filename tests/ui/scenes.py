"""A database in the states that pages have to show, filled through the repositories alone."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from db import attempts, deployments, log_lines, stages, supervisors
from db.log_lines import NewLine
from db.models import Deployment, Outcome, StageName, State, utc_now
from panel.deployments import Panel
from panel.hardware.machine import Gpu, Machine

GIB = 1024**3
STAGES = [(name, 60.0) for name in StageName]
ENDPOINT = "http://127.0.0.1:9"  # nothing listens on the discard port

LAPTOP = Machine(
    hostname="laptop",
    os_name="Debian GNU/Linux 12",
    kernel="6.1",
    cpu_name="AMD Ryzen 7 7840U",
    cpu_cores=8,
    cpu_flags=("avx2",),
    ram_bytes=32 * GIB,
    ram_available_bytes=24 * GIB,
    shm_bytes=16 * GIB,
    disk_free_bytes=200 * GIB,
)
SERVER = Machine(
    hostname="server",
    os_name="Debian GNU/Linux 12",
    kernel="6.1",
    cpu_name="Intel Xeon",
    cpu_cores=32,
    ram_bytes=128 * GIB,
    ram_available_bytes=120 * GIB,
    disk_free_bytes=800 * GIB,
    gpus=(
        Gpu(
            nvml_index=0,
            name="NVIDIA RTX 4080",
            uuid="GPU-1",
            memory_bytes=16 * GIB,
            free_bytes=int(15.6 * GIB),
            compute_capability=(8, 9),
        ),
    ),
    driver_version="570.86",
    cuda_driver_version="12.8",
)
MEASURED = {
    "memory": {
        "weight_bytes": 513 * 1024**2,
        "kv_bytes": 740 * 1024**2,
        "kv_tokens": 16448,
        "peak_bytes": 1800 * 1024**2,
    },
    "load_s": 1.2,
    "warm_up_s": 0.4,
    "first_token_s": 0.08,
    "device": "cpu",
    "dtype": "float32",
}


def supervisor_beats(panel: Panel) -> None:
    with panel.database.begin() as session:
        supervisors.beat(session, pid=4242, started_at=utc_now())


def asked(panel: Panel, name: str | None = None) -> Deployment:
    """A deployment of the demo model that nobody has begun with."""
    return panel.launch(panel.plan("demo", name=name), actor="alice")


def starting(panel: Panel, name: str | None = None) -> Deployment:
    """Half-way: the model is here, the weights are loading."""
    deployment = asked(panel, name)
    with panel.database.begin() as session:
        attempt = attempts.begin(session, deployment.id, STAGES)
        for stage in (StageName.PREFLIGHT, StageName.DOWNLOAD, StageName.START):
            stages.start(session, attempt.id, stage)
            stages.finish(session, attempt.id, stage)
        stages.start(session, attempt.id, StageName.LOAD)
        stages.progress(session, attempt.id, StageName.LOAD, 0.4, "12 of 30 layers")
        deployments.set_state(session, deployment.id, State.STARTING)
    log(panel, deployment.id, attempt.id, count=20)
    return panel.deployment(deployment.id)


def ready(panel: Panel, name: str | None = None, endpoint: str = ENDPOINT) -> Deployment:
    deployment = starting(panel, name)
    attempt = deployment.attempts[-1]
    with panel.database.begin() as session:
        for stage in (StageName.LOAD, StageName.WARM_UP, StageName.FIRST_TOKEN):
            stages.start(session, attempt.id, stage)
            stages.finish(session, attempt.id, stage)
        attempts.mark_ready(session, attempt.id, MEASURED)
        deployments.set_state(session, deployment.id, State.READY, endpoint=endpoint)
    return panel.deployment(deployment.id)


def failed(
    panel: Panel, name: str | None = None, cause: dict[str, Any] | None = None
) -> Deployment:
    deployment = starting(panel, name)
    attempt = deployment.attempts[-1]
    cause = cause or {
        "code": "ModelTooLarge",
        "message": "The model needs 15.2 GiB; GPU 0 has 11.8 GiB free.",
        "fix": "Choose int8, shorten the context, or add a GPU.",
        "evidence": ["engine.load torch.OutOfMemoryError: CUDA out of memory."],
    }
    with panel.database.begin() as session:
        stages.fail(session, attempt.id, StageName.LOAD, "out of memory")
        attempts.end(session, attempt.id, Outcome.FAILED, exit_code=2, cause=cause)
        deployments.set_state(session, deployment.id, State.FAILED, cause["message"])
    return panel.deployment(deployment.id)


def stopped(panel: Panel, name: str | None = None) -> Deployment:
    deployment = ready(panel, name)
    panel.stop(deployment.id, actor="alice")
    with panel.database.begin() as session:
        attempts.end(session, deployment.attempts[-1].id, Outcome.STOPPED, exit_code=0)
        deployments.set_state(session, deployment.id, State.STOPPED, endpoint=None)
    return panel.deployment(deployment.id)


def log(panel: Panel, deployment_id: str, attempt_id: int, *, count: int) -> None:
    """Lines 0 … count - 1, every tenth a warning and the last an error."""
    begun = utc_now() - timedelta(seconds=count)
    lines = [
        NewLine(
            at=begun + timedelta(seconds=n),
            level="error" if n == count - 1 else "warning" if n % 10 == 9 else "info",
            source="engine",
            text=f"engine.load layer {n} of {count} is on the device",
        )
        for n in range(count)
    ]
    with panel.database.begin() as session:
        log_lines.append(session, deployment_id, attempt_id, lines, keep=10_000)
