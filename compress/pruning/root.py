"""Root of a rising function, in few evaluations of it.

ITP (Oliveira and Takahashi 2020, "An enhancement of the bisection method average performance preserving minmax
optimality"): interpolates as long as that makes sure to take at most one evaluation more than bisection.
"""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["last_below"]

_TRUNCATION = 0.2
"""Kappa 1 for a bracket of width 1, with kappa 2 = 2, as the authors recommend."""

_SLACK = 1
"""Evaluations that may be made beyond bisection's (n0)."""


def last_below(function: Callable[[float], float], low: float, high: float, at_high: float, tolerance: float) -> float:
    """Point where `function` is at most 0, not more than `tolerance` below its crossing; `low` if it is nowhere else.

    Args:
        function: rising from -1 at `low`, where it is not evaluated.
        at_high: its value at `high`, above 0.
    """
    at_low, width = -1.0, high - low
    allowed = math.ceil(math.log2(width / tolerance)) + _SLACK
    while high - low > tolerance * (1 + 1e-9):
        middle = (low + high) / 2
        crossing = (at_high * low - at_low * high) / (at_high - at_low)
        point = _towards(middle, crossing, _TRUNCATION * (high - low) ** 2 / width)
        radius = max(0.0, tolerance / 2 * 2**allowed - (high - low) / 2)
        point = min(max(point, middle - radius), middle + radius)
        value = function(point)
        low, at_low, high, at_high = (low, at_low, point, value) if value > 0 else (point, value, high, at_high)
        allowed -= 1
    return low


def _towards(middle: float, crossing: float, step: float) -> float:
    """`crossing`, moved by `step` towards `middle` but not past it."""
    return middle if abs(middle - crossing) <= step else crossing + math.copysign(step, middle - crossing)
