"""The range of everything seen: no value is clipped, and one outlier stretches the grid for all."""

from __future__ import annotations

import torch

from compress.quantization.grid import Grid
from compress.quantization.observers.base import RangeObserver

__all__ = ["MinMax"]


class MinMax(RangeObserver):
    """Running minimum and maximum."""

    def __init__(self) -> None:
        self._low: torch.Tensor | None = None
        self._high: torch.Tensor | None = None

    def observe(self, values: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> None:
        self._low = low if self._low is None else torch.minimum(self._low, low)
        self._high = high if self._high is None else torch.maximum(self._high, high)

    def range(self, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
        assert self._low is not None
        assert self._high is not None
        return self._low, self._high
