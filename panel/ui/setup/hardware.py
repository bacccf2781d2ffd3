"""Step 1: what this machine has, and what that means."""

from __future__ import annotations

import streamlit as st

from panel.hardware.machine import Gpu, Machine, ProblemCode
from panel.models.catalog import Tier
from panel.sizing.recommend import least_memory, tier_of
from panel.sizing.workload import Workload
from panel.ui.i18n import N_, _, ngettext
from panel.ui.opened import opened_panel
from panel.ui.setup.choice import Choice
from panel.ui.wording import Word, badge, gib, number

OK, NOTE, LACK = (
    ("green", ":material/check:"),
    ("gray", ":material/info:"),
    ("orange", ":material/warning:"),
)
NOT_WORTH_SAYING = (ProblemCode.NO_DRIVER, ProblemCode.NO_GPU)
"""A badge says these already."""

LITTLE_DISK_BYTES = 20 * 1024**3
"""A 7B model in bfloat16 takes 15 GB on disk; below this the card warns."""


def draw(choice: Choice) -> None:
    machine = opened_panel().machine()
    draw_strip(machine)
    left, right = st.columns([1.05, 1], gap="large")
    with left:
        st.subheader(_("This machine"))
        with st.container(border=True, gap="small"):
            draw_facts(machine)
    with right:
        st.subheader(_("What it means"))
        with st.container(border=True):
            draw_tier(machine)
            draw_meaning(machine)
        draw_problems(machine)
        with st.container(horizontal=True, horizontal_alignment="right"):
            st.button(
                _("Choose a model"),
                key="to_model",
                icon=":material/arrow_forward:",
                icon_position="right",
                type="primary",
                on_click=choice.change,
                kwargs={"step": "model"},
            )


def draw_strip(machine: Machine) -> None:
    """One line: the device that computes, verdict badges, Rescan."""
    with st.container(border=True):
        left, right = st.columns([7, 1], vertical_alignment="center")
        with left.container(horizontal=True, gap="small", vertical_alignment="center"):
            st.markdown(device_line(machine), width="content")
            draw_badges(machine)
        with right.container(horizontal=True, horizontal_alignment="right"):
            rescan = st.button(
                _("Rescan"), key="rescan", icon=":material/refresh:", type="tertiary"
            )
    if rescan:
        with st.spinner(_("Looking at the machine …")):
            opened_panel().machine(refresh=True)
        st.rerun()


def device_line(machine: Machine) -> str:
    if not machine.gpus:
        return f":material/memory: **{machine.cpu_name}**"
    first = machine.gpus[0]
    name = f"{len(machine.gpus)} × {first.name}" if len(machine.gpus) > 1 else first.name
    return f":material/developer_board: **{name}** · {gib(first.memory_bytes, 0)}"


def draw_badges(machine: Machine) -> None:
    if machine.gpus:
        driver = _("Driver {version}", version=machine.driver_version or "?")
        _badge(OK, driver)
        major, minor = machine.gpus[0].compute_capability
        _badge(OK, _("Compute {version}", version=f"{major}.{minor}"))
    else:
        _badge(NOTE, _("No NVIDIA GPU: runs on the CPU"))
    _badge(OK, _("{size} RAM", size=gib(machine.ram_bytes, 0)))
    disk = _("{size} disk free", size=gib(machine.disk_free_bytes, 0))
    _badge(OK if machine.disk_free_bytes > LITTLE_DISK_BYTES else LACK, disk)
    _badge(NOTE, container_words(machine))


def container_words(machine: Machine) -> str:
    runtime = machine.container_runtime
    if runtime is None:
        return _("No Docker: not needed")
    name = f"{runtime.kind.capitalize()} {runtime.version}"
    return _("{name} with GPU runtime", name=name) if runtime.has_gpu_runtime else name


def draw_facts(machine: Machine) -> None:
    rows = {
        _("Processor"): machine.cpu_name,
        _("Cores for us"): number(machine.cpu_cores),
        _("Vector units"): ", ".join(machine.cpu_flags) or "–",
        _("Memory"): _(
            "{total}, {free} free now",
            total=gib(machine.ram_bytes),
            free=gib(machine.ram_available_bytes),
        ),
        _("Shared memory"): gib(machine.shm_bytes),
        _("Disk for models"): _("{size} free", size=gib(machine.disk_free_bytes)),
        _("System"): f"{machine.os_name} · {machine.kernel}",
        "Python": machine.python,
        _("Containers"): container_words(machine),
    }
    for gpu in machine.gpus:
        rows[f"GPU {gpu.nvml_index}"] = gpu_line(gpu)
    if machine.cuda_driver_version:
        rows["CUDA"] = _("driver supports {version}", version=machine.cuda_driver_version)
    st.table(rows, border="horizontal", alt=_("Facts about this machine"))


def gpu_line(gpu: Gpu) -> str:
    free = _("{size} free", size=gib(gpu.free_bytes))
    return f"{gpu.name} · {gib(gpu.memory_bytes, 0)} · {free}"


def draw_tier(machine: Machine) -> None:
    """Which class of models this machine is for."""
    words = {
        Tier.LARGE: Word(N_("For 7B and 13B models in production"), "green", ":material/rocket:"),
        Tier.SMALL: Word(N_("For 7B models in development"), "green", ":material/check_circle:"),
        Tier.DEMO: Word(N_("For the demo model and for trying out"), "blue", ":material/science:"),
    }
    badge(words[tier_of(machine)])


def draw_problems(machine: Machine) -> None:
    """What was found wrong with the machine, each with its fix; a machine without a GPU is not."""
    for problem in machine.problems:
        if problem.code in NOT_WORTH_SAYING:
            continue
        fix = f"  \n:material/build: {problem.fix}" if problem.fix else ""
        st.warning(f"{problem.message}{fix}", icon=":material/warning:")


def draw_meaning(machine: Machine) -> None:
    if machine.gpus:
        many = len(machine.gpus)
        text = ngettext(
            "One GPU computes. A 7B model in bfloat16 is 14 to 15 GiB of weights.",
            "{n} GPUs are here; an engine takes one of them. "
            "A 7B model in bfloat16 is 14 to 15 GiB of weights.",
            many,
        )
        st.markdown(text)
        st.markdown(_("A 16 GB card therefore takes a 7B model in int8 or int4 only."))
        return
    st.markdown(
        _(
            "There is no NVIDIA GPU, so models run on the processor. That is enough for the "
            "built-in demo model and for trying everything out."
        )
    )
    least = least_memory(machine, Tier.SMALL, Workload())
    st.markdown(
        _(
            "A 7B model starts in {precision} if {size} or more of memory is free, and answers "
            "slowly.",
            precision=least.precision,
            size=gib(least.total_bytes),
        )
    )


def _badge(look: tuple[str, str], text: str) -> None:
    color, icon = look
    st.badge(text, icon=icon, color=color)  # type: ignore[arg-type]  # one of Streamlit's colours
