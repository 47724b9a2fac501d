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
    order = np.argsort(-candidates.scores, kind="stable")[:_MOST]
    kept: list[int] = []
    while len(order) and len(kept) < limit:
        best, order = order[0], order[1:]
        kept.append(int(best))
        overlaps = box_iou(candidates.corners[best][None], candidates.corners[order])[0]
        order = order[(overlaps <= iou) | (candidates.labels[order] != candidates.labels[best])]
    return candidates.at(np.array(kept, np.intp))
