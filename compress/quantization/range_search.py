"""The range of least cost between zero and the extremes of a tensor, searched one end at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch

__all__ = ["Cost", "search"]

Cost = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From many ranges, lows `[k]` and highs `[k]`, to the cost of each `[k]`."""

_COARSE = torch.linspace(0.02, 1.0, 50, dtype=torch.float64)
"""First candidates, as shares of the largest value; the second look is ten times finer around the best."""

_FINE = torch.linspace(-0.02, 0.02, 21, dtype=torch.float64)

_ROUNDS = 2
"""Times each end is searched with the other held; the third changes nothing beyond the fourth digit."""


def search(
    cost: Cost, low: float, high: float, *, symmetric: bool, shortest: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """The range of least cost, both ends `[1]`; it contains zero and lies within the extremes, widened to zero.

    Args:
        cost: see `Cost`.
        low: smallest value of the tensor.
        high: largest value of the tensor.
        symmetric: ranges are `[-end, end]`.
        shortest: length below which no range is tried (unless the extremes are closer).
    """
    least, most = min(low, 0.0), max(high, 0.0)
    if symmetric:
        end = _best(max(-least, most), shortest / 2, lambda ends: cost(-ends, ends))
        return torch.tensor([-end]), torch.tensor([end])
    two_sided = least < 0 < most
    low, high, searched = least, most, None
    for _ in range(_ROUNDS if two_sided else 1):
        high = _best_high(cost, low, most, shortest / (1 + two_sided))
        if high == searched:
            break  # the low end was searched with this high one already
        low, searched = _best_low(cost, least, high, shortest / (1 + two_sided)), high
    return torch.tensor([low]), torch.tensor([high])


def _best_high(cost: Cost, low: float, most: float, shortest: float) -> float:
    return _best(most, shortest, lambda ends: cost(torch.full_like(ends, low), ends))


def _best_low(cost: Cost, least: float, high: float, shortest: float) -> float:
    return _best(least, shortest, lambda ends: cost(ends, torch.full_like(ends, high)))


def _best(limit: float, shortest: float, cost: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """The best end between zero and `limit`, at least `shortest` from zero."""
    if limit == 0:
        return 0.0
    smallest = min(shortest / abs(limit), 1.0)
    share = _COARSE
    for _ in range(2):
        share = share.clamp(smallest, 1.0)
        chosen = share[cost(share * limit).argmin()]
        share = chosen + _FINE
    return float(chosen * limit)
