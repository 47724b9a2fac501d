"""Observer of a tensor: it sees every value once, in batches, keeps a summary of bounded size, and answers with the
range that the integer grid should span."""

from __future__ import annotations

import abc

import torch

from compress.quantization.grid import Grid

__all__ = ["RangeObserver"]


class RangeObserver(abc.ABC):
    """Summary of one tensor, or of each channel of one tensor, over a calibration set.

    Attributes:
        summed: whether a layer adds the tensor's values up, on a finer grid. Of the network's output nobody does.
    """

    summed = True

    @abc.abstractmethod
    def observe(self, values: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> None:
        """Take in a batch.

        Args:
            values: finite floats `[channels, n]`; one channel for a per-tensor range.
            low: smallest value of each channel `[channels]`.
            high: largest value of each channel `[channels]`.
        """

    @abc.abstractmethod
    def range(self, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
        """Smallest and largest real value `[channels]` that `grid` should represent."""
