"""The most weights that may become zero within an accuracy budget, taken where the outputs notice it least.

The noise of layers adds up, and that of one layer grows with the energy of what is removed from it. One trial for each
layer therefore gives its price, noise at the output for energy removed, and global magnitude pruning of weights that
are scaled by its square root removes the cheapest ones first. How many fit is found by bisection.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from compress.core.budget import Verdict
from compress.graph.weights import Weight
from compress.pruning.root import last_below
from compress.pruning.sensitivity import Weights
from compress.pruning.unstructured import prune_smallest

__all__ = ["MOST", "Fitted", "fit_amount"]

MOST = 0.9
"""Largest share of a layer that goes, or the amount asked for where that is more. A layer that the outputs do not
notice on a few images would go whole: layer collapse (Tanaka et al. 2020, section 4), after which it gives its bias and
no training brings it back. `structured` stops at the same share; Gale et al. 2019 stop at 80 % for the last layer."""

_FINENESS = 64
"""The amount is found to a 64th of what was asked for."""

_MET = 1e-9
_LARGEST_EXCESS = 200.0
_RISE = 20 * 1.5
"""Of the noise in decibels with the amount: its energy is that of the removed weights, and those below a threshold are
as many as the threshold is high and have its square for energy. Only the number of trials depends on it."""


@dataclass(frozen=True)
class Fitted:
    """Share of the weights that fits, and its verdict.

    Attributes:
        amount: share of the weights that became zero; 0 where none may.
        verdict: with these zeros; None where nothing was pruned.
        scanned: layers that were tried alone.
        verdicts: networks judged while searching for the amount.
    """

    amount: float
    verdict: Verdict | None
    scanned: int
    verdicts: int


def fit_amount(
    weights: Sequence[Weight],
    amount: float,
    judge: Callable[[], Verdict],
    excess: Callable[[Verdict], float],
    alone: Callable[[Weights], Verdict],
    shown: Callable[[Sequence[Weights]], Iterable[Weights]],
) -> Fitted:
    """Prune, in place, as many weights as have no `excess`, at most `amount` of all.

    Args:
        judge: the network as it is now.
        excess: how far a verdict is beyond what is allowed, in decibels or points; at most 0 within.
        alone: the network with only this layer pruned, on as many images as the order of the layers needs.
        shown: yields the layers behind a bar, in the order in which they are tried.
    """
    prices = {layer.weight.name: _price(layer, amount, alone) for layer in shown([*map(Weights, weights)])}
    scales = _scales([prices[weight.name] for weight in weights])
    original = [weight.tensor.detach().clone() for weight in weights]
    tried: dict[float, Verdict] = {}

    def attempt(share: float) -> float:
        _restore(weights, original)
        prune_smallest([weight.tensor for weight in weights], share, scales, most=max(MOST, amount))
        tried[share] = judge()
        return _gauge(excess(tried[share]))

    best = amount
    over = attempt(amount)
    if over > 0:
        best = last_below(attempt, 0.0, amount, over, amount / _FINENESS)
    _restore(weights, original)
    prune_smallest([weight.tensor for weight in weights], best, scales, most=max(MOST, amount))
    return Fitted(best, tried.get(best), len(weights), len(tried))


def _gauge(excess: float) -> float:
    """Rises about evenly with the amount, from -1 without noise; at most 0 within the limits."""
    if excess <= _MET:
        excess = min(excess, 0.0)
    return float(10 ** (min(excess, _LARGEST_EXCESS) / _RISE)) - 1


def _price(layer: Weights, amount: float, alone: Callable[[Weights], Verdict]) -> float:
    """A layer's noise at the output for the energy removed from it; NaN where nothing is removed."""
    tensor = layer.weight.tensor
    before = tensor.detach().double().square().sum()
    with layer.pruned(amount):
        removed = float(before - tensor.detach().double().square().sum())
        return float(10 ** (-alone(layer).sqnr_db / 10)) / removed if removed > 0 else math.nan


def _scales(prices: Sequence[float]) -> list[float]:
    """Square root of each layer's price."""
    positive = [price for price in prices if price > 0 and math.isfinite(price)]
    if not positive:
        return [1.0] * len(prices)
    # A layer that nobody notices goes first; one that loses nothing at this share has no price, and goes last.
    return [math.sqrt(max(positive) if not math.isfinite(price) else max(price, min(positive))) for price in prices]


def _restore(weights: Sequence[Weight], tensors: Sequence[torch.Tensor]) -> None:
    with torch.no_grad():
        for weight, tensor in zip(weights, tensors, strict=True):
            weight.tensor.copy_(tensor)
