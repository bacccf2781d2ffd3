"""GPU tests run where torch sees an NVIDIA GPU and are skipped, with the reason, elsewhere."""

from __future__ import annotations

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        item.add_marker(pytest.mark.skip(reason="torch sees no NVIDIA GPU on this machine"))
