"""95 % intervals of proportions, of their paired change, of means and of medians."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["Z95", "median_interval", "paired_interval", "t95", "wilson_interval"]

Z95 = 1.959963984540054
"""97.5 % quantile of the normal distribution."""

_ONE_IN = 40  # 2.5 %: one side of a 95 % interval


def wilson_interval(successes: int, samples: int) -> tuple[float, float]:
    """95 % score interval of a proportion (Wilson 1927, "Probable inference"), within [0, 1]."""
    share, z2 = successes / samples, Z95**2
    centre = (share + z2 / (2 * samples)) / (1 + z2 / samples)
    half = Z95 / (1 + z2 / samples) * math.sqrt(share * (1 - share) / samples + z2 / (4 * samples**2))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def t95(freedom: int) -> float:
    """97.5 % quantile of Student's t distribution, within 0.3 %.

    Exact for 1 and 2 degrees of freedom, beyond that the expansion in 1 / freedom around the normal distribution's
    quantile (Abramowitz and Stegun 1964, 26.7.5).

    Raises:
        ValueError: `freedom` is not positive.
    """
    if freedom < 1:
        raise ValueError(f"{freedom} degrees of freedom have no quantile")
    if freedom == 1:
        return math.tan(math.pi * 0.475)
    if freedom == 2:
        return 0.95 * math.sqrt(2 / (1 - 0.95**2))
    z = Z95
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / float(freedom) ** power for power, term in enumerate(terms, start=1))


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


def paired_interval(lost: int, gained: int, samples: int) -> tuple[float, float]:
    """95 % interval of the change of a proportion on the same samples, within [-1, 1].

    Wald's interval for paired proportions after adding 1/2 to each of the four counts (Agresti & Min 2005, "Simple
    improved confidence intervals for comparing matched proportions"), which stays honest where no answer changed.
    """
    less, more, total = lost + 0.5, gained + 0.5, samples + 2
    change = (more - less) / total
    half = Z95 * math.sqrt(less + more - (more - less) ** 2 / total) / total
    return max(-1.0, change - half), min(1.0, change + half)
