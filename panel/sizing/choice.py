"""A model sized in every precision, the one that would be taken, and the refusal if none can be."""

from __future__ import annotations

from dataclasses import dataclass

from panel.errors import DoesNotFit, PanelError
from panel.models.shape import ModelShape
from panel.sizing.fit import Fit, Precision, Verdict
from panel.sizing.workload import Workload


@dataclass(frozen=True)
class Sizing:
    """What a model needs on a machine, for each precision, and which precision would be taken."""

    shape: ModelShape
    fits: dict[Precision, Fit]
    chosen: Precision

    @property
    def fit(self) -> Fit:
        return self.fits[self.chosen]


def as_precision(value: Precision | str) -> Precision:
    """Raises PanelError with the values that there are."""
    try:
        return Precision(value)
    except ValueError:
        allowed = ", ".join(Precision)
        raise PanelError(f"{value!r} is no precision.", fix=f"Choose one of: {allowed}.") from None


def does_not_fit(sizing: Sizing, asked: Workload) -> DoesNotFit:
    """The error with both numbers and what would fit instead."""
    fit, limit = sizing.fit, sizing.shape.max_positions
    if asked.context_tokens > limit:
        return DoesNotFit(
            f"A context of {asked.context_tokens} tokens is more than the {limit} "
            f"that {sizing.shape.name} was made for.",
            fix=f"Choose {limit} or less. To try all the same: --force.",
        )
    smaller = [p for p, f in sizing.fits.items() if f.verdict is not Verdict.TOO_LARGE]
    fix = f"Choose {smaller[0]}." if smaller else "Choose a smaller model or a shorter context."
    return DoesNotFit(
        f"{sizing.shape.name} in {sizing.chosen} needs {fit.total_bytes / 2**30:.1f} GiB; "
        f"{fit.device_name} gives it {fit.budget_bytes / 2**30:.1f} GiB.",
        fix=f"{fix} To try all the same: --force.",
    )
