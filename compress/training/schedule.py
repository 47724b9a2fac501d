"""Learning rate over time: linear warm-up, then half a cosine (Loshchilov & Hutter 2017, "SGDR", without restarts)."""

from __future__ import annotations

import math

__all__ = ["cosine_factor"]


def cosine_factor(step: int, *, warmup: int, total: int) -> float:
    """Share of the highest learning rate at `step` of `total` (from 0), in (0, 1]; a function of the step alone.

    Args:
        step: steps beyond the last one keep its rate.
        warmup: steps of linear rise, fewer than `total`; the rate is full at step `warmup`.
    """
    step = min(step, total - 1)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
