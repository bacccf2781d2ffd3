"""detect · plan: what this machine is, and what a model would need on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from panel.commands.output import AsJson, console, gib, opened, say, say_json, table
from panel.deployments import Sizing
from panel.hardware.detect import read_machine
from panel.hardware.machine import Machine
from panel.sizing import wording
from panel.sizing.fit import Fit, Verdict
from panel.sizing.recommend import honest_notes, tier_notes
from panel.sizing.workload import Workload

LEAST_CONTEXT = 256
"""A server with a shorter context is of no use to anybody, so none is suggested."""

Context = Annotated[int, typer.Option("--context", help="Most tokens of one request.")]
Parallel = Annotated[int, typer.Option("--parallel", help="Requests computed together.")]


def register(app: typer.Typer) -> None:
    app.command()(detect)
    app.command()(plan)


def detect(as_json: AsJson = False) -> None:
    """Show the facts of this machine; with --json a file for `plan --machine`."""
    with opened() as panel:
        machine = panel.machine(refresh=True)
    if as_json:
        say_json(machine.to_dict())
        return
    rows = table("fact", "value")
    for name, value in _facts(machine):
        rows.add_row(name, value)
    console().print(rows)


def plan(
    model: Annotated[str, typer.Argument(help="demo, a folder, hf:org/name or ms:org/name")],
    machine: Annotated[
        Path | None, typer.Option("--machine", help="Size for this machine (detect --json).")
    ] = None,
    context: Context = 4096,
    parallel: Parallel = 4,
    as_json: AsJson = False,
) -> None:
    """Show what a model needs in each precision, what fits, and how to launch it."""
    workload = Workload(context, parallel)
    with opened() as panel:
        where = read_machine(machine) if machine else panel.machine()
        sizing = panel.size(model, workload=workload, machine=where)
        fitting = _fitting(sizing.fit, workload)
        plan = panel.plan(model, precision=sizing.chosen, workload=fitting or workload)
        command = panel.command_line(plan) if fitting else None
    if as_json:
        say_json(
            {
                "shape": sizing.shape,
                "chosen": sizing.chosen,
                "fits": {str(precision): fit for precision, fit in sizing.fits.items()},
                "command": command,
            }
        )
        return
    _show(sizing, where)
    if command:
        say(f"\n{command}")


def _fitting(fit: Fit, workload: Workload) -> Workload | None:
    """The workload asked for, or the longest context of it that fits; None where none does."""
    if fit.verdict is not Verdict.TOO_LARGE:
        return workload
    context = fit.max_context_tokens
    return replace(workload, context_tokens=context) if context >= LEAST_CONTEXT else None


def _show(sizing: Sizing, machine: Machine) -> None:
    rows = table("", "precision", "verdict", "total", "budget", "weights", "KV", "max context")
    for precision, fit in sizing.fits.items():
        chosen = "→" if precision == sizing.chosen else ""
        figures = (fit.total_bytes, fit.budget_bytes, fit.weight_bytes, fit.kv_bytes)
        rows.add_row(
            chosen,
            str(precision),
            str(fit.verdict).replace("_", " "),
            *map(gib, figures),
            str(fit.max_context_tokens),
        )
    console().print(rows)
    say("")
    say(wording.summary(sizing.fit))
    about_choice = honest_notes(sizing.fits, bool(machine.gpus))
    for note in (*sizing.fit.notes, *about_choice, *tier_notes(machine)):
        say(f"- {wording.sentence(note)}")


def _facts(machine: Machine) -> list[tuple[str, str]]:
    facts = [
        ("host", f"{machine.hostname}, {machine.os_name}, kernel {machine.kernel}"),
        ("processor", f"{machine.cpu_name}, {machine.cpu_cores} usable cores"),
        ("processor features", " ".join(machine.cpu_flags)),
        ("memory", f"{gib(machine.ram_bytes)}, {gib(machine.ram_available_bytes)} available"),
        ("shared memory", gib(machine.shm_bytes)),
        ("disk", f"{gib(machine.disk_free_bytes)} free"),
    ]
    for gpu in machine.gpus:
        free = f"{gib(gpu.memory_bytes)}, {gib(gpu.free_bytes)} free"
        major, minor = gpu.compute_capability
        facts.append((f"GPU {gpu.nvml_index}", f"{gpu.name}, {free}, capability {major}.{minor}"))
    if not machine.gpus:
        facts.append(("GPU", "none"))
    if machine.driver_version:
        cuda = machine.cuda_driver_version
        facts.append(("driver", f"{machine.driver_version}, CUDA up to {cuda}"))
    runtime = machine.container_runtime
    facts.append(("containers", f"{runtime.kind} {runtime.version}" if runtime else "no runtime"))
    facts += [("note", f"{problem.message} {problem.fix}") for problem in machine.problems]
    return facts
