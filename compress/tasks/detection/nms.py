"""Non-maximum suppression: of boxes of one class that overlap, only the surest stays (Felzenszwalb et al. 2010)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compress.tasks.detection.candidates import Candidates
from compress.tasks.matching import box_iou

__all__ = ["suppress"]


def suppress(candidates: Candidates, iou: float, limit: int) -> Candidates:
    """The surest `limit` boxes, of which no two of one class overlap by more than `iou`; the surest first."""
    kept = [
        own[_greedy(candidates.corners[own], candidates.scores[own], iou)]
        for own in (np.flatnonzero(candidates.labels == label) for label in np.unique(candidates.labels))
    ]
    if not kept:
        return candidates
    positions = np.concatenate(kept)
    order = np.argsort(-candidates.scores[positions], kind="stable")[:limit]
    return candidates.at(positions[order])


def _greedy(corners: NDArray[np.float32], scores: NDArray[np.float32], iou: float) -> NDArray[np.intp]:
    """Positions of the boxes of one class that stay, the surest first."""
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(int(best))
        order = order[box_iou(corners[best][None], corners[order])[0] <= iou]
    return np.array(kept, np.intp)
