"""The range with the least squared rounding-plus-clipping error, searched on a streaming histogram.

Minimises `sum_i n_i (c_i - Q(c_i))^2` over bin centres c_i with counts n_i (the criterion of Banner et al. 2019 and of
Nagel et al. 2021, section 3.1), exactly on the histogram instead of under an assumed distribution.
"""

from __future__ import annotations

import torch

from compress.quantization.cells import cell_edges, per_cell, running_sum
from compress.quantization.grid import Grid
from compress.quantization.observers.base import RangeObserver
from compress.quantization.range_search import search
from compress.quantization.streaming_histogram import StreamingHistogram

__all__ = ["Mse"]


class Mse(RangeObserver):
    """Least squared error of one tensor."""

    def __init__(self) -> None:
        self._histogram = StreamingHistogram()

    def observe(self, values: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> None:
        self._histogram.add(values, float(low.min()), float(high.max()))

    def range(self, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
        centres, counts = self._histogram.centres()
        zeroth, first, second = (running_sum(counts * centres**power) for power in range(3))

        def squared_error(lows: torch.Tensor, highs: torch.Tensor) -> torch.Tensor:
            edges, values = cell_edges(centres, lows, highs, grid)
            square = values.square() * per_cell(zeroth, edges)
            mixed = values * per_cell(first, edges)
            return (per_cell(second, edges) - 2 * mixed + square).sum(1)

        return search(squared_error, self._histogram.low, self._histogram.high, symmetric=grid.symmetric)
