"""95 % intervals of proportions and medians."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["Z95", "median_interval", "wilson_interval"]

Z95 = 1.959963984540054
"""97.5 % quantile of the normal distribution."""

_ONE_IN = 40  # 2.5 %: one side of a 95 % interval


def wilson_interval(successes: int, samples: int) -> tuple[float, float]:
    """95 % score interval of a proportion (Wilson 1927, "Probable inference"), within [0, 1]."""
    share, z2 = successes / samples, Z95**2
    centre = (share + z2 / (2 * samples)) / (1 + z2 / samples)
    half = Z95 / (1 + z2 / samples) * math.sqrt(share * (1 - share) / samples + z2 / (4 * samples**2))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the median from order statistics (Conover 1999, §3.2); assumes nothing of the distribution.

    The ranks are the outermost pair that a Binomial(n, 1/2) count leaves with at most 2.5 % probability on each side.
    With fewer than 6 values no such pair exists and the whole range is returned.
    """
    ordered = sorted(values)
    count = len(ordered)
    below, cumulated = 0, 0
    for rank in range(count // 2):
        cumulated += math.comb(count, rank)
        if cumulated * _ONE_IN > 2**count:  # integers: 0.5**count underflows
            break
        below = rank
    return ordered[below], ordered[count - 1 - below]
