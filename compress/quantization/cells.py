"""Cells of the grid, histogram bins that share an integer, for many candidate ranges at once.

Bins are sorted, so those of an integer are neighbours: with sums of the bins up to each one prepared once, any sum per
integer is a difference of two of them. A candidate costs a few hundred look-ups instead of work on every bin.
"""

from __future__ import annotations

import numpy as np
import torch

from compress.quantization.grid import Grid

__all__ = ["cell_edges", "per_cell", "running_sum"]


def cell_edges(
    centres: torch.Tensor, lows: torch.Tensor, highs: torch.Tensor, grid: Grid
) -> tuple[torch.Tensor, torch.Tensor]:
    """Borders of the integers' cells in the list of bins, and what the integers stand for.

    Args:
        centres: of the bins `[n]`, float64, ascending.
        lows: smallest real values `[k]` of the candidate ranges.
        highs: largest real values `[k]`.
        grid: the integers.

    Returns:
        Edges `[k, levels + 1]`: bins `edges[i, j]` up to but without `edges[i, j + 1]` round to integer j of
        candidate i; the outermost integers take what is clipped. Real values `[k, levels]` of the integers.
    """
    scale, zero_point = grid.parameters(lows, highs)
    integers = torch.arange(grid.minimum, grid.maximum + 1)
    values = (integers - zero_point[:, None]) * scale[:, None].double()
    borders = (values[:, 1:] + values[:, :-1]) / 2
    edges = torch.empty(len(lows), len(integers) + 1, dtype=torch.int64)
    edges[:, 0], edges[:, -1] = 0, len(centres)
    # NumPy's starts each look-up where the one before ended, and takes half the time of torch's
    edges[:, 1:-1] = torch.from_numpy(np.searchsorted(centres.numpy(), borders.numpy()))
    return edges, values


def running_sum(amounts: torch.Tensor) -> torch.Tensor:
    """Sums `[n + 1]` of the first 0, 1, ... n of `amounts` `[n]`."""
    return torch.cat([amounts.new_zeros(1), amounts.cumsum(0)])


def per_cell(sums: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """Sum `[k, levels]` of the amounts behind `sums` (see `running_sum`) in each cell."""
    return sums[edges].diff(dim=1)
