"""Object key point similarity (COCO key point evaluation; pycocotools `computeOks`)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compress.core.io import KeyPoints

__all__ = ["COCO_SIGMAS", "object_similarity"]

COCO_SIGMAS = (
    *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072),
    *(0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
)
"""How far annotators differ on each of COCO's 17 points, as a share of the object's size."""


def object_similarity(
    places: NDArray[np.float64], target: KeyPoints, sigmas: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Mean over labelled points of exp(-d^2 / (2 area (2 sigma)^2)), `[a, k, 2]` and `n` objects -> `[a, n]`.

    For an object without labelled points the distance is how far a point lies outside twice its box, as in COCO.
    """
    variances = (2 * sigmas) ** 2
    similarity = np.zeros((len(places), len(target.points)))
    for index, (points, visibility) in enumerate(zip(target.points.astype(np.float64), target.visibility, strict=True)):
        labelled = visibility > 0
        if labelled.any():
            distance = places - points
        else:
            x0, y0, x1, y1 = target.boxes.corners[index].astype(np.float64)
            low = np.array([x0 - (x1 - x0), y0 - (y1 - y0)])
            high = np.array([x1 + (x1 - x0), y1 + (y1 - y0)])
            distance = np.maximum(0, low - places) + np.maximum(0, places - high)
        area = float(target.boxes.areas[index]) + np.spacing(1.0)
        exponent = (distance**2).sum(axis=2) / variances / area / 2
        counted = exponent[:, labelled] if labelled.any() else exponent
        similarity[:, index] = np.exp(-counted).mean(axis=1)
    return similarity
