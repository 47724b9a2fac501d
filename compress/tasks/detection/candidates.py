"""Boxes on their way from a model's outputs to answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from compress.core.io import Frame

__all__ = ["Candidates", "Corners", "above", "softmax", "to_corners", "to_picture"]

Corners = Literal["xyxy", "yxyx", "xywh", "cxcywh"]
"""What four numbers of a box are: two corners in either order; a corner and the size; the centre and the size."""


@dataclass(frozen=True)
class Candidates:
    """Labelled boxes of one sample.

    Attributes:
        corners: float32 `[n, 4]`, x0 y0 x1 y1.
        scores: float32 `[n]`.
        labels: int64 `[n]`.
    """

    corners: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.scores)

    def at(self, positions: NDArray[np.intp] | NDArray[np.bool_]) -> Candidates:
        """Those at the positions, in that order."""
        return Candidates(self.corners[positions], self.scores[positions], self.labels[positions])


def above(corners: NDArray[np.floating], scores: NDArray[np.floating], threshold: float) -> Candidates:
    """Every box for every class it is scored above `threshold` for, `[anchors, 4]` and `[anchors, classes]`."""
    anchors, labels = np.nonzero(scores > threshold)
    return Candidates(
        corners[anchors].astype(np.float32), scores[anchors, labels].astype(np.float32), labels.astype(np.int64)
    )


def to_corners(boxes: NDArray[np.floating], form: Corners) -> NDArray[np.float64]:
    """Boxes `[..., 4]` of any form as x0 y0 x1 y1."""
    first, second, third, fourth = np.moveaxis(boxes.astype(np.float64), -1, 0)
    if form == "yxyx":
        return np.stack([second, first, fourth, third], axis=-1)
    if form == "xywh":
        return np.stack([first, second, first + third, second + fourth], axis=-1)
    if form == "cxcywh":
        return np.stack([first - third / 2, second - fourth / 2, first + third / 2, second + fourth / 2], axis=-1)
    return np.stack([first, second, third, fourth], axis=-1)


def to_picture(candidates: Candidates, frame: Frame | None) -> Candidates:
    """Boxes of the model's plane in pixels of the picture as stored; unchanged where there is no frame."""
    if frame is None:
        return candidates
    scale = np.array([frame.scale[1], frame.scale[0]] * 2)
    offset = np.array([frame.offset[1], frame.offset[0]] * 2)
    corners = ((candidates.corners - offset) / scale).astype(np.float32)
    return Candidates(corners, candidates.scores, candidates.labels)


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Over the last axis."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return shares
