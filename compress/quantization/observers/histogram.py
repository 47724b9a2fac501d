"""The range with the least squared rounding-plus-clipping error, searched on a streaming histogram.

Bins are `2^e` wide and start at a multiple of their width, so that when the range grows two neighbours merge into one
without splitting a count: the histogram after any number of batches is that of all values together, in any order. The
search minimises `sum_i n_i (c_i - Q(c_i))^2` over bin centres c_i (the criterion of Banner et al.
2019 and of Nagel et al. 2021, section 3.1), exactly on the histogram instead of under an assumed distribution.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from compress.quantization.grid import Grid
from compress.quantization.observers.base import RangeObserver

__all__ = ["Histogram"]

_BINS = 4096
"""At least 2048 cover the range seen, which is 8 to each step of an 8-bit grid."""

_SAMPLE = 1 << 19
"""Values counted of each batch, evenly spread; the extremes are always those of all values."""

_COARSE = torch.linspace(0.02, 1.0, 50, dtype=torch.float64)
"""First candidates, as shares of the largest value; the second look is ten times finer around the best."""

_FINE = torch.linspace(-0.02, 0.02, 21, dtype=torch.float64)
_FINEST = -120
"""Exponent of the narrowest bins: what is smaller is zero to any grid, and float32 still tells their edges apart."""

_ROUNDS = 2
"""Times each end is searched with the other held; the third changes nothing beyond the fourth digit."""


class Histogram(RangeObserver):
    """Exact streaming histogram of one tensor: 32 KiB however many values it sees."""

    def __init__(self) -> None:
        self._counts = torch.zeros(_BINS, dtype=torch.float64)
        self._exponent = _FINEST  # of the bin width; grows with the range
        self._first = 0  # the window starts at `first * 2**exponent`
        self._low = math.inf
        self._high = -math.inf

    def observe(self, values: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> None:
        self._low, self._high = min(self._low, float(low.min())), max(self._high, float(high.max()))
        self._make_room()
        width = 2.0**self._exponent
        start = self._first * width
        stride = -(-values.numel() // _SAMPLE) | 1  # odd, so that it does not walk along the rows of an image
        sample = values.flatten()[::stride] if stride > 1 else values
        self._counts += torch.histc(sample.float(), bins=_BINS, min=start, max=start + _BINS * width).cpu().double()

    def range(self, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
        occupied = self._counts.nonzero()[:, 0]
        centres = (occupied + self._first + 0.5) * 2.0**self._exponent
        search = _Search(centres.clamp(self._low, self._high), self._counts[occupied], grid)
        least, most = min(self._low, 0.0), max(self._high, 0.0)
        if grid.symmetric:
            high = search.both_ends(max(-least, most))
            low = -high
        else:
            low, high = least, most
            for _ in range(_ROUNDS if low < 0 < high else 1):
                high = search.high_end(low, most)
                low = search.low_end(least, high)
        return torch.tensor([low]), torch.tensor([high])

    def _make_room(self) -> None:
        """Widen the bins, by powers of two, until the window covers zero and everything seen."""
        low, high = min(self._low, 0.0), max(self._high, 0.0)
        exponent = max(self._exponent, math.frexp((high - low) / _BINS)[1] - 1 if high > low else _FINEST)
        while math.floor(high / 2.0**exponent) - math.floor(low / 2.0**exponent) >= _BINS:
            exponent += 1
        first = math.floor(low / 2.0**exponent)
        if (exponent, first) != (self._exponent, self._first):
            self._move(exponent, first)

    def _move(self, exponent: int, first: int) -> None:
        occupied = self._counts.nonzero()[:, 0]
        ratio = 2.0 ** (exponent - self._exponent)
        place = ((occupied + self._first) / ratio).floor().long() - first
        self._counts = torch.zeros_like(self._counts).index_add_(0, place, self._counts[occupied])
        self._exponent, self._first = exponent, first


class _Search:
    """Squared error of a range, and the best of many ranges, on bins `centres` with `counts`."""

    def __init__(self, centres: torch.Tensor, counts: torch.Tensor, grid: Grid) -> None:
        self._centres, self._counts, self._grid = centres, counts, grid

    def both_ends(self, most: float) -> float:
        """The best `high` for ranges `[-high, high]`, at most `most`."""
        return self._best(most, lambda ends: (-ends, ends))

    def high_end(self, low: float, most: float) -> float:
        """The best `high` for ranges `[low, high]`, at most `most`."""
        return self._best(most, lambda ends: (torch.full_like(ends, low), ends))

    def low_end(self, least: float, high: float) -> float:
        """The best `low` for ranges `[low, high]`, at least `least`."""
        return self._best(least, lambda ends: (ends, torch.full_like(ends, high)))

    def _best(self, limit: float, ranges: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]) -> float:
        if limit == 0:
            return 0.0
        share = _COARSE
        for _ in range(2):
            chosen = share[self._errors(*ranges(share * limit)).argmin()]
            share = (chosen + _FINE).clamp(max=1.0)
        return float(chosen * limit)

    def _errors(self, lows: torch.Tensor, highs: torch.Tensor) -> torch.Tensor:
        scale, zero_point = self._grid.parameters(lows, highs)
        rounded = self._grid.round_trip(self._centres, scale[:, None].double(), zero_point[:, None])
        return ((rounded - self._centres).square() * self._counts).sum(dim=1)
