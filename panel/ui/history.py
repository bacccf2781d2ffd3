"""What past starts tell about a new one."""

from __future__ import annotations

from db import stages
from db.models import StageName
from panel.deployments import Panel


def typical_durations(panel: Panel, source: str) -> dict[StageName, float]:
    """Seconds that each stage usually takes for this model source; empty before the first start."""
    with panel.database.read() as session:
        return stages.typical_durations(session, source)
