"""The average of the batches' ranges, the newest weighing most: a rare outlier counts by how many batches hold one.

Jacob et al. 2018, section 3.1. The average is divided by the sum of its weights (as Adam does, Kingma & Ba 2015,
section 3), so that a short calibration is not dominated by its first batch.
"""

from __future__ import annotations

import torch

from compress.quantization.grid import Grid
from compress.quantization.observers.base import RangeObserver

__all__ = ["MovingAverage"]

_DECAY = 0.99
"""Weight of a batch relative to the next one; a hundred batches are remembered (Krishnamoorthi 2018 uses 0.99 too)."""


class MovingAverage(RangeObserver):
    """Exponential moving average of each batch's minimum and maximum, per tensor or per channel."""

    def __init__(self) -> None:
        self._low = torch.zeros(1, dtype=torch.float64)  # weighted sums
        self._high = torch.zeros(1, dtype=torch.float64)
        self._weight = 0.0

    def observe(self, values: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> None:
        self._low = _DECAY * self._low + low.double().cpu()
        self._high = _DECAY * self._high + high.double().cpu()
        self._weight = _DECAY * self._weight + 1.0

    def range(self, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
        return (self._low / self._weight).float(), (self._high / self._weight).float()
