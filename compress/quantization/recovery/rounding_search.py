"""Rounding each weight down or up so that a layer's summed squared output error is least.

For one output channel with weights w (in steps of the scale s) and inputs X, rounding to the integers `w + u` changes
the output by `s u X`, and so by a squared error of

    s^2 u H u'    with H = X X'

which is the objective of Nagel et al. 2020 (AdaRound, equation 13). H is all that is needed of the data, so the binary
problem is solved on it directly, from two starts, and the better result is kept for each channel:

* coordinate descent from the nearest integers: flip any weight whose flip lowers the error, until none does;
* the same from the sequential rounding of Frantar et al. 2022 (GPTQ; Babai's nearest plane): each weight is rounded in
  turn, after those still free have moved to absorb the error made so far.

Against relaxing the choice to a rectified sigmoid and descending by Adam (AdaRound, equation 25) this needs no learning
rate, no annealing and no stored inputs, and costs milliseconds to a second a layer.
"""

from __future__ import annotations

import torch

__all__ = ["rounding_error", "search_rounding"]


def rounding_error(hessian: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """Squared output error of each channel in units of `s^2`, `[G, O]`.

    Args:
        hessian: `X X'` `[G, K, K]` of each of G independent groups of channels.
        offset: `u` `[G, O, K]`.
    """
    return ((offset @ hessian) * offset).sum(dim=-1)


def search_rounding(
    hessian: torch.Tensor, exact: torch.Tensor, limits: tuple[float, float], *, damping: float, sweeps: int
) -> torch.Tensor:
    """The integers `[G, O, K]`, each next below or above `exact` and within `limits`.

    A channel whose error would not be lower than with the nearest integers gets the nearest ones.

    Args:
        hessian: `X X'` `[G, K, K]`.
        exact: weights in steps of their scale `[G, O, K]`; one that is an integer already stays.
        limits: smallest and largest integer.
        damping: share of the mean curvature added to each weight's own. It pulls towards the unrounded weights where
            there are fewer samples than inputs, or inputs that are always zero.
        sweeps: at most so many rounds over all weights.
    """
    below, above = exact.floor().clamp(*limits), exact.ceil().clamp(*limits)
    nearest = exact.round().clamp(*limits)
    damped = _damped(hessian, damping)
    best, least = nearest, rounding_error(hessian, nearest - exact)
    for start in (nearest, _round_in_turn(damped, exact, below, above)):
        integers = _descend(damped, exact, start, below + above, sweeps)
        error = rounding_error(hessian, integers - exact)
        better = error < least
        best, least = torch.where(better[..., None], integers, best), torch.where(better, error, least)
    return best


def _damped(hessian: torch.Tensor, share: float) -> torch.Tensor:
    diagonal = hessian.diagonal(dim1=-2, dim2=-1)
    extra = (share * diagonal.mean(dim=-1, keepdim=True)).clamp(min=torch.finfo(diagonal.dtype).tiny)
    return hessian + torch.diag_embed(extra.expand_as(diagonal))


def _descend(
    hessian: torch.Tensor, exact: torch.Tensor, start: torch.Tensor, both: torch.Tensor, sweeps: int
) -> torch.Tensor:
    """Flip weights, one at a time but in all channels at once, as long as that lowers the error.

    Args:
        both: the sum of the two choices of each weight, so that `both - q` is the other one.
    """
    half_gradient = ((start - exact) @ hessian).mT.contiguous()
    chosen, both = start.mT.contiguous(), both.mT.contiguous()  # [G, K, O]: what one step reads lies together
    for _ in range(sweeps):
        flips = 0
        for column in range(exact.shape[-1]):
            row = hessian[:, column, :, None]  # [G, K, 1]
            step = both[:, column] - 2 * chosen[:, column]
            change = step * (step * row[:, column] + 2 * half_gradient[:, column])
            step.masked_fill_(change >= 0, 0.0)
            count = int(step.count_nonzero())
            if count:
                chosen[:, column] += step
                half_gradient.addcmul_(row, step[:, None])
                flips += count
        if not flips:
            break
    return chosen.mT


def _round_in_turn(
    hessian: torch.Tensor, exact: torch.Tensor, below: torch.Tensor, above: torch.Tensor
) -> torch.Tensor:
    """Round by `H = L L'`: the error is `|L' u'|^2`, whose last term holds the last weight alone, and so on up.

    Weights with the largest curvature come last in L and are rounded first, while most others can make up for them.
    """
    order = hessian.diagonal(dim1=-2, dim2=-1).mean(dim=0).argsort()
    factor, failed = torch.linalg.cholesky_ex(hessian[:, order][:, :, order])
    if failed.any():  # a group that saw zeros only: any rounding is as good
        return exact.round().clamp(below, above)
    target, low, high = (part[..., order].mT.contiguous() for part in (exact, below, above))
    offset = torch.zeros_like(target)  # of the weights already rounded, [G, K, O]
    for column in reversed(range(exact.shape[-1])):
        carried = (factor[:, None, column + 1 :, column] @ offset[:, column + 1 :])[:, 0]
        wish = target[:, column] - carried / factor[:, column, column, None]
        up = wish - low[:, column] > high[:, column] - wish
        offset[:, column] = torch.where(up, high[:, column], low[:, column]) - target[:, column]
    rounded = torch.empty_like(exact)
    rounded[..., order] = (offset + target).round().mT
    return rounded
