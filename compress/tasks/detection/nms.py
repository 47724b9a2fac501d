"""Non-maximum suppression: of boxes of one class that overlap, only the surest stays (Felzenszwalb et al. 2010)."""

from __future__ import annotations

import numpy as np

from compress.tasks.detection.candidates import Candidates
from compress.tasks.matching import box_iou

__all__ = ["suppress"]


_MOST = 30_000
"""Candidates of a sample that are looked at, the surest first, as in Ultralytics' `max_nms`. A network that works gives
hundreds; one that quantization broke may score every box for every class, and would take minutes a picture."""


def suppress(candidates: Candidates, iou: float, limit: int) -> Candidates:
    """The surest `limit` boxes, of which no two of one class overlap by more than `iou`; the surest first."""
    surest = candidates.at(np.argsort(-candidates.scores, kind="stable")[:_MOST])
    rivals = {label: np.flatnonzero(surest.labels == label) for label in np.unique(surest.labels)}
    alive = np.ones(len(surest), np.bool_)
    kept: list[int] = []
    for position in range(len(surest)):
        if len(kept) == limit:
            break
        if alive[position]:
            kept.append(position)
            behind = rivals[surest.labels[position]]
            behind = behind[(behind > position) & alive[behind]]
            overlaps = box_iou(surest.corners[position][None], surest.corners[behind])[0]
            alive[behind[overlaps > iou]] = False
    return surest.at(np.array(kept, np.intp))
