"""A histogram of one tensor that any number of batches can be added to, in bounded memory.

Bins are `2^e` wide and start at a multiple of their width, so that when the range grows two neighbours merge into one
without splitting a count: the histogram after any number of batches is that of all values together, in any order.
"""

from __future__ import annotations

import math

import torch

__all__ = ["StreamingHistogram"]

_BINS = 4096
"""At least 2048 cover the range seen, which is 8 to each step of an 8-bit grid."""

_SAMPLE = 1 << 19
"""Values counted of each batch, evenly spread; the extremes are always those of all values."""

_FINEST = -120
"""Exponent of the narrowest bins: what is smaller is zero to any grid, and float32 still tells their edges apart."""


class StreamingHistogram:
    """Counts of values: 32 KiB however many it has seen.

    Attributes:
        low: smallest value seen; inf before the first.
        high: largest value seen; -inf before the first.
    """

    def __init__(self) -> None:
        self.low = math.inf
        self.high = -math.inf
        self._counts = torch.zeros(_BINS, dtype=torch.float64)
        self._exponent = _FINEST  # of the bin width; grows with the range
        self._first = 0  # the window starts at `first * 2**exponent`

    @property
    def width(self) -> float:
        """Width of a bin."""
        return float(2.0**self._exponent)

    def add(self, values: torch.Tensor, low: float, high: float) -> None:
        """Count a batch of finite `values` (any shape) whose extremes are `low` and `high`."""
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._make_room()
        stride = -(-values.numel() // _SAMPLE) | 1  # odd, so that it does not walk along the rows of an image
        sample = values.flatten()[::stride] if stride > 1 else values
        # Exact, as the width is a power of two, and with threads; torch.histc is neither.
        places = (sample.float() * (1 / self.width)).floor_().sub_(self._first).int()
        self._counts += torch.bincount(places.flatten(), minlength=_BINS).cpu()

    def occupied(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The bins that hold anything, in order: index of each (bin i is `[i, i + 1) * width`) and its count."""
        places = self._counts.nonzero()[:, 0]
        return places + self._first, self._counts[places]

    def centres(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The bins that hold anything, in order: a value to stand for those in it (never beyond those seen), count."""
        bins, counts = self.occupied()
        return ((bins + 0.5) * self.width).clamp(self.low, self.high), counts

    def _make_room(self) -> None:
        """Widen the bins, by powers of two, until the window covers zero and everything seen."""
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        exponent = max(self._exponent, math.frexp((high - low) / _BINS)[1] - 1 if high > low else _FINEST)
        while math.floor(high / 2.0**exponent) - math.floor(low / 2.0**exponent) >= _BINS:
            exponent += 1
        first = math.floor(low / 2.0**exponent)
        if (exponent, first) != (self._exponent, self._first):
            self._move(exponent, first)

    def _move(self, exponent: int, first: int) -> None:
        bins, counts = self.occupied()
        place = (bins / 2.0 ** (exponent - self._exponent)).floor().long() - first
        self._counts = torch.zeros_like(self._counts).index_add_(0, place, counts)
        self._exponent, self._first = exponent, first
