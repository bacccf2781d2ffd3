"""Copies between host and device that the host does not wait for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def to_device(
    values: npt.NDArray[np.generic] | Sequence[int] | Sequence[float],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """A tensor of these values; from pinned memory to a GPU, as a plain copy would wait for all
    that the GPU still has to do."""
    host = torch.as_tensor(values, dtype=dtype)
    return host if device.type == "cpu" else host.pin_memory().to(device, non_blocking=True)


class Arriving:
    """A small tensor on its way to the host. `wait` waits for it alone, not for later work."""

    def __init__(self, tensor: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if not tensor.is_cuda:
            self._host = tensor
            return
        self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._host.copy_(tensor, non_blocking=True)
        self._event = torch.cuda.Event()
        self._event.record()

    def wait(self) -> Tensor:
        if self._event:
            self._event.synchronize()
        return self._host
