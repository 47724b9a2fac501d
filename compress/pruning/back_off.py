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

from compress.budget import Verdict
from compress.pruning.sensitivity import Weights
from compress.pruning.unstructured import prune_smallest
from compress.weights import Weight

__all__ = ["MOST", "Fitted", "fit_amount"]

MOST = 0.9
"""Largest share of a layer that goes, or the amount asked for where that is more. A layer that the outputs do not
notice on a few images would go whole: layer collapse (Tanaka et al. 2020, section 4), after which it gives its bias and
no training brings it back. `structured` stops at the same share; Gale et al. 2019 stop at 80 % for the last layer."""

_BISECTIONS = 6
"""The amount is found to a 64th of what was asked for."""


@dataclass(frozen=True)
class Fitted:
    """What fits.

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
    judge: Callable[[int | None], Verdict],
    met_by: Callable[[Verdict], bool],
    shown: Callable[[Sequence[Weights]], Iterable[Weights]],
    scan_images: int,
) -> Fitted:
    """Prune, in place, as many weights as `met_by` allows, at most `amount` of all.

    Args:
        judge: the network as it is now, on so many images; None for all.
        shown: yields the layers behind a bar.
        scan_images: that every layer is tried on alone. The order of the layers' noises needs few, and the result is
            judged on all.
    """
    scales = _scales(shown([Weights(weight) for weight in weights]), amount, lambda: judge(scan_images))
    original = [weight.tensor.detach().clone() for weight in weights]

    def prune(share: float) -> None:
        prune_smallest([weight.tensor for weight in weights], share, scales, most=max(MOST, amount))

    def attempt(share: float) -> Verdict:
        _restore(weights, original)
        prune(share)
        return judge(None)

    best, verdict, high, verdicts = 0.0, None, 2 * amount, 0
    for _ in range(1 + _BISECTIONS):  # the first one is `amount` itself
        middle = (best + high) / 2
        tried = attempt(middle)
        verdicts += 1
        if met_by(tried):
            best, verdict = middle, tried
        else:
            high = middle
        if best == amount:
            break
    _restore(weights, original)
    prune(best)
    return Fitted(best, verdict, len(weights), verdicts)


def _scales(layers: Iterable[Weights], amount: float, judge: Callable[[], Verdict]) -> list[float]:
    """Square root of each layer's noise at the output for the energy removed from it."""
    prices = []
    for layer in layers:
        tensor = layer.weight.tensor
        before = tensor.detach().double().square().sum()
        with layer.pruned(amount):
            removed = float(before - tensor.detach().double().square().sum())
            prices.append(10 ** (-judge().sqnr_db / 10) / removed if removed > 0 else math.nan)
    positive = [price for price in prices if price > 0 and math.isfinite(price)]
    if not positive:
        return [1.0] * len(prices)
    # A layer that nobody notices goes first; one that loses nothing at this share has no price, and goes last.
    return [math.sqrt(max(positive) if not math.isfinite(price) else max(price, min(positive))) for price in prices]


def _restore(weights: Sequence[Weight], tensors: Sequence[torch.Tensor]) -> None:
    with torch.no_grad():
        for weight, tensor in zip(weights, tensors, strict=True):
            weight.tensor.copy_(tensor)
