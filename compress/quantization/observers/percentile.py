"""The range that all but a few values lie in: outliers are clipped by their number, whatever their size.

McKinstry et al. 2019 ("Discovering low-precision networks close to full-precision networks"), and Wu et al. 2020
("Integer quantization for deep learning inference"), section 4.
"""

from __future__ import annotations

import torch

from compress.measure.streaming_histogram import StreamingHistogram
from compress.quantization.grid import Grid
from compress.quantization.observers.base import RangeObserver

__all__ = ["Percentile"]

_OUTSIDE = 1e-4
"""Share of the values beyond either end: 99.99 % of them lie below the upper end (Wu et al. 2020, table 5)."""


class Percentile(RangeObserver):
    """The 0.01 and the 99.99 percentile of one tensor, interpolated within bins of a streaming histogram."""

    def __init__(self) -> None:
        self._histogram = StreamingHistogram()

    def observe(self, values: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> None:
        self._histogram.add(values, float(low.min()), float(high.max()))

    def range(self, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor([self._quantile(_OUTSIDE)]), torch.tensor([self._quantile(1 - _OUTSIDE)])

    def _quantile(self, share: float) -> float:
        bins, counts = self._histogram.occupied()
        cumulative = counts.cumsum(0)
        rank = share * cumulative[-1]
        position = int(torch.searchsorted(cumulative, rank).clamp(max=len(bins) - 1))
        above = float((cumulative[position] - rank) / counts[position])  # share of the bin's values beyond the quantile
        value = (float(bins[position]) + 1 - above) * self._histogram.width
        return min(max(value, self._histogram.low), self._histogram.high)
