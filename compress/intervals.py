"""95 % intervals of proportions."""

from __future__ import annotations

import math

__all__ = ["Z95", "wilson_interval"]

Z95 = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


def wilson_interval(successes: int, samples: int) -> tuple[float, float]:
    """95 % score interval of a proportion (Wilson 1927, "Probable inference"), within [0, 1]."""
    share, z2 = successes / samples, Z95**2
    centre = (share + z2 / (2 * samples)) / (1 + z2 / samples)
    half = Z95 / (1 + z2 / samples) * math.sqrt(share * (1 - share) / samples + z2 / (4 * samples**2))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))
