"""Quantiles of measured times, and the interval of their median."""

import math
from typing import Sequence, Tuple


def median_interval(ordered: Sequence[float]) -> Tuple[float, float]:
    """95 % interval of the median from order statistics: no assumption about the distribution (Conover 1999, 3.2)."""
    count = len(ordered)
    # Normal approximation of Binomial(n, 1/2); within one rank of the exact one for n >= 30.
    spread = 1.96 * math.sqrt(count) / 2
    low = max(0, math.floor(count / 2.0 - spread))
    high = min(count - 1, math.ceil(count / 2.0 + spread))
    return ordered[low], ordered[high]


def quantile(ordered: Sequence[float], q: float) -> float:
    """Linear interpolation between order statistics, as numpy does."""
    position = (len(ordered) - 1) * q
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)
