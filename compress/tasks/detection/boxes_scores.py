"""Boxes that the model has decoded, with a score for each class; suppression is left to us."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from compress.core.io import Arrays, Signature
from compress.tasks.base import NoFit
from compress.tasks.detection.candidates import Candidates, Corners, above, softmax, to_corners
from compress.tasks.detection.decoder import Decoder, fixed_plane, is_list, named, rows_of, sigmoid

__all__ = ["BoxesScoresDecoder", "Scores", "activate", "in_pixels", "split_outputs"]

Scores = Literal["probability", "sigmoid", "softmax"]
"""What scores still need: nothing, a sigmoid each, or a softmax over the classes."""


class BoxesScoresDecoder(Decoder):
    """Two outputs `boxes [anchors, 4]` and `scores [anchors, classes]`, or one with both side by side, in either order.

    Attributes:
        form: what the four numbers of a box are.
        normalised: whether they are fractions of the input's width and height.
        boxes, scores: names of the two outputs; None finds them by their shape.
        objectness: whether one output has a column of it between box and classes.
        background: whether class 0 of the scores is "nothing".
        activation: what the scores still need.
    """

    kind: Literal["boxes_scores"] = "boxes_scores"
    form: Corners = "xyxy"
    normalised: bool = False
    boxes: str | None = None
    scores: str | None = None
    objectness: bool = False
    background: bool = False
    activation: Scores = "probability"

    def fit(self, signature: Signature, classes: int) -> None:
        """Raise `NoFit` where there are no boxes, or no scores for them."""
        if self.normalised:
            fixed_plane(signature)
        if self._together(signature, classes) is None:
            split_outputs(signature, classes + self.background, self.boxes, self.scores)

    def decode(self, outputs: Arrays, signature: Signature, classes: int, threshold: float) -> list[Candidates]:
        """Boxes of each sample, one for each class that is surer than `threshold`."""
        together = self._together(signature, classes)
        if together is not None:
            values = rows_of(outputs, together, self._columns(classes))
            boxes, scores = values[..., :4], values[..., 4:]
        else:
            names = split_outputs(signature, classes + self.background, self.boxes, self.scores)
            boxes, scores = rows_of(outputs, names[0], 4), rows_of(outputs, names[1], classes + self.background)
        scores = activate(scores, self.activation)
        if together is not None and self.objectness:
            scores = scores[..., :1] * scores[..., 1:]
        scores = scores[..., 1:] if self.background else scores
        corners = to_corners(boxes, self.form)
        if self.normalised:
            corners = in_pixels(corners, signature)
        return [above(*sample, threshold) for sample in zip(corners, scores, strict=True)]

    def _together(self, signature: Signature, classes: int) -> str | None:
        if self.boxes is not None or self.scores is not None:
            return None
        return next((spec.name for spec in signature.outputs if is_list(spec, self._columns(classes))), None)

    def _columns(self, classes: int) -> int:
        return 4 + self.objectness + self.background + classes


def split_outputs(signature: Signature, columns: int, boxes: str | None, scores: str | None) -> tuple[str, str]:
    """Names of the outputs with boxes and with scores of so many columns.

    Raises:
        NoFit: there are none, or several that could be.
    """
    specs = signature.outputs
    fitting = [named(specs, boxes)] if boxes else [spec for spec in specs if is_list(spec, 4) and spec.name != scores]
    other = [named(specs, scores)] if scores else [spec for spec in specs if is_list(spec, columns)]
    pairs = [
        (first.name, second.name)
        for first in fitting
        for second in other
        if first.name != second.name and is_list(first, 4) and is_list(second, columns)
    ]
    if len(pairs) != 1:
        several = "; say which is which with task.decoder.boxes= and task.decoder.scores=" if pairs else ""
        raise NoFit(f"boxes [anchors, 4] and scores [anchors, {columns}], or [anchors, {columns + 4}] as one{several}")
    return pairs[0]


def activate(scores: NDArray[np.float32], activation: Scores) -> NDArray[np.float32]:
    """Scores as probabilities, `[..., classes]`."""
    if activation == "sigmoid":
        return sigmoid(scores)
    return softmax(scores).astype(np.float32) if activation == "softmax" else scores


def in_pixels(corners: NDArray[np.float64], signature: Signature) -> NDArray[np.float64]:
    """Corners in fractions of the input's width and height as pixels, `[..., 4]`."""
    height, width = fixed_plane(signature)
    return corners * np.array([width, height, width, height], np.float64)
