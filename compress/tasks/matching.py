"""Matching of answers with labelled objects, as COCO does it (Lin et al. 2014; pycocotools `evaluateImg`)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["THRESHOLDS", "box_iou", "match"]

THRESHOLDS: NDArray[np.float64] = np.linspace(0.5, 0.95, 10)
"""Overlaps at which COCO judges: 0.50, 0.55, ..., 0.95; written as pycocotools does, down to the last bit."""

_ALMOST_ONE = 1 - 1e-10  # pycocotools: an overlap of 1 that rounding took something of still meets a threshold of 1


def box_iou(
    boxes: NDArray[np.floating], others: NDArray[np.floating], crowd: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Intersection over union of corners x0 y0 x1 y1, `[n, 4]` and `[m, 4]` -> `[n, m]`.

    Args:
        crowd: `[m]`, of the others; over these a box is judged by the share of itself that lies in the group.
    """
    first, second = boxes.astype(np.float64), others.astype(np.float64)
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    own, other = _area(first)[:, None], _area(second)[None]
    union = own + other - shared
    if crowd is not None:
        union = np.where(crowd[None], own, union)
    overlaps: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return overlaps


def match(
    overlaps: NDArray[np.float64],
    ignored: NDArray[np.bool_],
    crowd: NDArray[np.bool_],
    thresholds: NDArray[np.float64] = THRESHOLDS,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Give each answer the labelled object it overlaps most among those that are still free.

    An answer takes an ignored object only where no other is left; a crowd is never used up.

    Args:
        overlaps: `[answers, objects]`, the surest answer first.
        ignored: `[objects]`, that nobody has to find; crowds are among them.
        crowd: `[objects]`.

    Returns:
        Whether each answer meets an object that counts, and whether it is out of the count because it meets an
        ignored one; both `[thresholds, answers]`.
    """
    answers, objects = overlaps.shape
    hit, out = (np.zeros((len(thresholds), answers), np.bool_) for _ in range(2))
    if not objects:
        return hit, out
    order = np.argsort(ignored, kind="stable")
    overlaps, ignored, crowd = overlaps[:, order], ignored[order], crowd[order]
    free = np.ones((len(thresholds), objects), np.bool_)
    needed = np.minimum(thresholds, _ALMOST_ONE)[:, None]
    rows = np.arange(len(thresholds))
    for index in np.flatnonzero(overlaps.max(axis=1) >= needed.min()):
        usable = (free | crowd) & (overlaps[index] >= needed)
        counted = usable & ~ignored
        usable = np.where(counted.any(axis=1, keepdims=True), counted, usable)
        score = np.where(usable, overlaps[index], -1.0)
        best = objects - 1 - score[:, ::-1].argmax(axis=1)  # of equal overlaps the last, as pycocotools takes it
        met = usable[rows, best]
        free[rows[met], best[met]] = False
        hit[:, index] = met & ~ignored[best]
        out[:, index] = met & ignored[best]
    return hit, out


def _area(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    area: NDArray[np.float64] = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    return area
