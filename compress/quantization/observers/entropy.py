"""The range that loses least information: smallest Kullback-Leibler divergence of the quantized distribution.

Migacz 2017 ("8-bit inference with TensorRT"), for any grid of ours: `P` is the histogram with what is clipped counted
in the outermost bins that are kept; `Q` is the histogram without what is clipped, its counts spread evenly over the
occupied bins of each integer. Where the original tries every number of bins of a one-sided histogram, this searches
both ends and lets the grid say which bins share an integer.

With n_i the kept counts, A and B the totals of P and Q, o what is clipped, and C_j, N_j the count and the number of
bins of integer j, `KL(P || Q) = (sum_i p_i log p_i - sum_j p_j log(C_j / N_j)) / A + log(B / A)`, where p is n plus o
in the two outermost places.
"""

from __future__ import annotations

import torch

from compress.measure.streaming_histogram import StreamingHistogram
from compress.quantization.cells import cell_edges, per_cell, running_sum
from compress.quantization.grid import Grid
from compress.quantization.observers.base import RangeObserver
from compress.quantization.range_search import search

__all__ = ["Entropy"]


class Entropy(RangeObserver):
    """Least KL divergence of one tensor."""

    def __init__(self) -> None:
        self._histogram = StreamingHistogram()

    def observe(self, values: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> None:
        self._histogram.add(values, float(low.min()), float(high.max()))

    def range(self, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
        centres, _ = self._histogram.centres()
        counts = _without_exact_zeros(*self._histogram.occupied())
        total, plogp = running_sum(counts), running_sum(torch.xlogy(counts, counts))

        def divergence(lows: torch.Tensor, highs: torch.Tensor) -> torch.Tensor:
            first, last = torch.searchsorted(centres, lows), torch.searchsorted(centres, highs, right=True)
            edges = cell_edges(centres, lows, highs, grid)[0]
            edges = torch.maximum(edges, first[:, None]).minimum(last[:, None])
            return _divergence(counts, total, plogp, edges)

        # A grid finer than the bins loses nothing that the histogram could tell, so candidates stop there.
        shortest = (grid.maximum - grid.minimum) * self._histogram.width
        low, high = self._histogram.low, self._histogram.high
        return search(divergence, low, high, symmetric=grid.symmetric, shortest=shortest)


def _without_exact_zeros(bins: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Counts with the bin that starts at zero no fuller than its fullest neighbour.

    After a ReLU half the values are exactly zero. Every grid represents them exactly, but as a spike in `P` that `Q`
    smears over the integer's bins they would outweigh everything else.
    """
    neighbours = counts[(bins == -1) | (bins == 1)]
    if not len(neighbours):
        return counts
    return torch.where(bins == 0, torch.minimum(counts, neighbours.max()), counts)


def _divergence(counts: torch.Tensor, total: torch.Tensor, plogp: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """KL(P || Q) `[k]`.

    Args:
        counts: of the bins `[n]`.
        total: running sum of the counts.
        plogp: running sum of `count log count`.
        edges: of the integers' cells among the kept bins `[k, levels + 1]` (see `cell_edges`).
    """
    first, last = edges[:, 0], edges[:, -1]
    clipped = torch.stack([total[first], total[-1] - total[last]])  # [2, k]
    outermost = torch.stack([first.clamp(max=len(counts) - 1), (last - 1).clamp(min=0)])
    kept = total[last] - total[first]
    cells = per_cell(total, edges)
    logq = (cells / edges.diff(dim=1)).log()  # of a cell without bins: NaN, times nothing
    p_log_p = plogp[last] - plogp[first] + _gain(counts[outermost], clipped).sum(0)
    p_log_q = torch.where(cells > 0, cells * logq, 0.0).sum(1) + _at_ends(cells, logq, clipped)
    result = (p_log_p - p_log_q) / total[-1] + (kept / total[-1]).log()
    return torch.where(kept > 0, result, torch.inf)


def _gain(count: torch.Tensor, extra: torch.Tensor) -> torch.Tensor:
    """Growth of `count log count` when `extra` joins."""
    return torch.xlogy(count + extra, count + extra) - torch.xlogy(count, count)


def _at_ends(cells: torch.Tensor, logq: torch.Tensor, clipped: torch.Tensor) -> torch.Tensor:
    """Clipped counts `[2, k]` times log q of the first and the last cell that hold anything `[k]`."""
    held = (cells > 0).int()
    first, last = held.argmax(1), held.shape[1] - 1 - held.flip(1).argmax(1)
    ends = torch.stack([logq.gather(1, cell[:, None])[:, 0] for cell in (first, last)])
    return torch.where(clipped > 0, clipped * ends, 0.0).sum(0)
