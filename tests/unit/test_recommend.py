from __future__ import annotations

import json
from pathlib import Path

import pytest

from panel.hardware.machine import Machine
from panel.models.catalog import Tier
from panel.sizing.fit import Precision, Verdict
from panel.sizing.recommend import recommend, tier_notes, tier_of
from panel.sizing.wording import sentence
from panel.sizing.workload import Workload

MACHINES = Path(__file__).parents[2] / "docs" / "machines"


def machine(name: str) -> Machine:
    return Machine.from_dict(json.loads((MACHINES / f"{name}.json").read_text()))


@pytest.mark.parametrize(
    ("name", "tier"),
    [
        ("laptop-no-gpu-16gb", Tier.DEMO),
        ("t4-16gb", Tier.SMALL),
        ("rtx4090-24gb", Tier.SMALL),
        ("a100-40gb", Tier.LARGE),
        ("h100-80gb-x2", Tier.LARGE),
    ],
)
def test_machines_belong_to_the_tier_that_their_memory_is_sold_as(name: str, tier: Tier) -> None:
    assert tier_of(machine(name)) is tier


def test_a_laptop_is_offered_the_demo_first_and_told_why() -> None:
    laptop = machine("laptop-no-gpu-16gb")
    first = recommend(laptop, Workload())[0]
    assert (first.entry.tier, first.precision) == (Tier.DEMO, Precision.FLOAT32)
    assert "no GPU" in sentence(tier_notes(laptop)[0])


def test_a_16_gb_card_is_offered_7b_quantized_and_told_that_bfloat16_does_not_fit() -> None:
    first = recommend(machine("t4-16gb"), Workload())[0]
    assert first.entry.tier is Tier.SMALL
    assert first.precision in (Precision.INT8, Precision.INT4)
    text = " ".join(sentence(note) for note in first.notes)
    assert "In bfloat16 its weights alone are" in text
    assert "int8" in text


def test_a_40_gb_card_is_offered_the_large_tier_in_bfloat16() -> None:
    first = recommend(machine("a100-40gb"), Workload())[0]
    assert (first.entry.tier, first.precision) == (Tier.LARGE, Precision.BFLOAT16)
    assert first.fit.verdict is Verdict.FITS


@pytest.mark.parametrize("path", sorted(MACHINES.glob("*.json")), ids=lambda path: path.stem)
def test_nothing_is_recommended_that_does_not_fit(path: Path) -> None:
    choices = recommend(machine(path.stem), Workload())
    assert choices
    assert all(choice.fit.verdict is not Verdict.TOO_LARGE for choice in choices)
    verdicts = [choice.fit.verdict for choice in choices]
    assert verdicts == sorted(verdicts, key=[Verdict.FITS, Verdict.TIGHT].index)
    assert all(sentence(note) for choice in choices for note in choice.notes)
