"""A machine survives the way through JSON, and a wrong file is refused by the field at fault."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from panel.errors import SettingsError
from panel.hardware.detect import detect, read_machine
from panel.hardware.machine import Machine

MACHINES = Path(__file__).parents[2] / "docs" / "machines"


def example() -> dict[str, Any]:
    return json.loads((MACHINES / "h100-80gb-x2.json").read_text())


def written(tmp_path: Path, data: object) -> Path:
    path = tmp_path / "machine.json"
    path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize("path", sorted(MACHINES.glob("*.json")), ids=lambda path: path.stem)
def test_an_example_machine_is_read_and_written_unchanged(path: Path) -> None:
    machine = read_machine(path)
    assert Machine.from_dict(machine.to_dict()) == machine
    assert machine.to_dict() == json.loads(path.read_text())


def test_this_machine_is_detected_quickly_without_torch_and_goes_through_json(
    tmp_path: Path,
) -> None:
    code = (
        "import json, sys; from pathlib import Path; from panel.hardware.detect import detect\n"
        "machine = detect(Path('/tmp/none'))\n"
        "assert 'torch' not in sys.modules\n"
        "sys.stdout.write(json.dumps(machine.to_dict()))"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert said.stderr == ""
    machine = read_machine(written(tmp_path, json.loads(said.stdout)))
    assert machine.cpu_cores >= 1
    assert 0 < machine.ram_available_bytes <= machine.ram_bytes
    assert machine.gpus or machine.problems


def test_detecting_again_takes_less_than_a_second_and_a_half(tmp_path: Path) -> None:
    detect(tmp_path)
    started = time.perf_counter()
    detect(tmp_path)
    assert time.perf_counter() - started < 1.5


def test_the_fingerprint_changes_with_hardware_and_driver_only() -> None:
    machine = Machine.from_dict(example())
    busy = replace(machine, ram_available_bytes=1, disk_free_bytes=1, problems=())
    assert busy.fingerprint() == machine.fingerprint()
    first, second = machine.gpus
    filled = replace(machine, gpus=(replace(first, free_bytes=0), second))
    assert filled.fingerprint() == machine.fingerprint()
    assert replace(machine, gpus=(first,)).fingerprint() != machine.fingerprint()
    assert replace(machine, driver_version="1").fingerprint() != machine.fingerprint()


def test_what_has_a_default_may_be_left_out(tmp_path: Path) -> None:
    data = example()
    del data["shm_bytes"], data["links"], data["gpus"][0]["processes"]
    assert read_machine(written(tmp_path, data)).gpus[0].processes == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ram_bytes": ...}, "ram_bytes is missing"),
        ({"ram_byte": 1}, "ram_byte is not known. Did you mean ram_bytes?"),
        ({"ram_bytes": "64 GB"}, "ram_bytes is '64 GB', which is not a whole number"),
        ({"ram_bytes": -1}, "ram_bytes is -1"),
        ({"ram_bytes": True}, "ram_bytes is True"),
        ({"ram_bytes": None}, "ram_bytes is None"),
        ({"in_container": "no"}, "in_container is 'no', which is not true or false"),
        ({"gpus": {}}, "gpus is {}, which is not a list"),
        ({"gpus": [7]}, "gpus[0] is 7, not an object"),
        ({"gpus": [{"name": "T4"}]}, "gpus[0].nvml_index, gpus[0].uuid, gpus[0].memory_bytes"),
        ({"links": [{"first": 0, "second": 1, "kind": "wifi"}]}, "links[0].kind is 'wifi'"),
        ({"driver_version": 550}, "driver_version is 550, which is not text"),
        ({"cpu_flags": ["avx2", 5]}, "cpu_flags[1] is 5"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, change: dict[str, object], said: str) -> None:
    data = {k: v for k, v in (example() | change).items() if v is not ...}
    path = written(tmp_path, data)
    with pytest.raises(SettingsError) as caught:
        read_machine(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_compute_capability_has_two_numbers(tmp_path: Path) -> None:
    data = example()
    data["gpus"][1]["compute_capability"] = [9]
    with pytest.raises(SettingsError, match=r"gpus\[1\]\.compute_capability .* a list of 2"):
        read_machine(written(tmp_path, data))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON"),
        (b'{"hostname": ', "line 1, column"),
        (b"[]", "not an object"),
        (b"\xff\xfe{}", "not UTF-8"),
    ],
)
def test_a_file_that_is_no_machine_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "machine.json"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=said):
        read_machine(path)


def test_a_file_that_is_not_there_is_refused_with_the_way_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read") as caught:
        read_machine(tmp_path / "none.json")
    assert "detect --json" in caught.value.fix
    with pytest.raises(SettingsError, match="cannot be read"):
        read_machine(tmp_path)
