"""Boxes relative to the cells of grids: YOLOX without anchors, YOLOv3 and YOLOv5 with them."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from compress.core.io import Arrays, Signature
from compress.tasks.base import NoFit
from compress.tasks.detection.candidates import Candidates, above, to_corners
from compress.tasks.detection.decoder import Decoder, fixed_plane, sigmoid
from compress.tasks.detection.levels import Levels

__all__ = ["GridDecoder"]

_LARGEST = 20.0
"""Exponent of a size, at most: e^20 strides are wider than any picture, and what overflows is no box."""


class GridDecoder(Decoder):
    """Numbers x, y, w, h, objectness and a score for each class, for every cell (and anchor).

        yolox    centre = (xy + cell) stride                    size = exp(wh) stride         (Ge et al. 2021)
        yolov3   centre = (s(xy) + cell) stride                 size = exp(wh) anchor         (Redmon & Farhadi 2018)
        yolov5   centre = (2 s(xy) - 0.5 + cell) stride         size = (2 s(wh))^2 anchor     (Jocher 2020)

    where s is the sigmoid and scores are objectness times class.

    Attributes:
        form: which of these.
        strides: pixels of the plane for each cell, level by level.
        anchors: width and height in pixels, for each level; none for `yolox`.
        objectness: whether there is a column of it before the classes.
        activated: whether scores, and what the equations put through the sigmoid, have been through it in the model.
    """

    kind: Literal["grid"] = "grid"
    form: Literal["yolox", "yolov3", "yolov5"] = "yolox"
    strides: tuple[int, ...] = (8, 16, 32)
    anchors: tuple[tuple[tuple[float, float], ...], ...] = ()
    objectness: bool = True
    activated: bool = True

    @model_validator(mode="after")
    def _fitting_anchors(self) -> GridDecoder:
        if not self.strides or min(self.strides) < 1:
            raise ValueError(f"strides must be positive, got {self.strides}")
        if self.form == "yolox" and self.anchors:
            raise ValueError("form yolox has no anchors: choose yolov3 or yolov5, or leave them out")
        if self.form != "yolox" and len(self.anchors) != len(self.strides):
            raise ValueError(f"form {self.form} needs anchors for {len(self.strides)} strides, got {len(self.anchors)}")
        if len({len(level) for level in self.anchors}) > 1 or not all(self.anchors):
            raise ValueError("every level needs the same number of anchors, one at least")
        return self

    def fit(self, signature: Signature, classes: int) -> None:
        """Raise `NoFit` where there is neither one list of all levels nor a map for each."""
        levels = self._levels(signature)
        if levels.outputs(signature.outputs, self._channels(classes)) is None:
            raise NoFit(levels.wanted(self._channels(classes)))

    def decode(self, outputs: Arrays, signature: Signature, classes: int, threshold: float) -> list[Candidates]:
        """Boxes of each sample, one for each class that is surer than `threshold`."""
        levels, channels = self._levels(signature), self._channels(classes)
        names = levels.outputs(signature.outputs, channels)
        assert names is not None
        values = levels.read(outputs, names, channels)
        scores = values[..., 4:] if self.activated else sigmoid(values[..., 4:])
        if self.objectness:
            scores = scores[..., :1] * scores[..., 1:]
        corners = to_corners(self._boxes(values[..., :4], levels), "cxcywh")
        return [above(*sample, threshold) for sample in zip(corners, scores, strict=True)]

    def _boxes(self, raw: NDArray[np.float32], levels: Levels) -> NDArray[np.float64]:
        """Centre and size in pixels, `[n, rows, 4]`."""
        cells = levels.centres().astype(np.float64)
        cell, stride = cells[:, :2], cells[:, 2:]
        first, second = raw[..., :2].astype(np.float64), raw[..., 2:].astype(np.float64)
        if self.form == "yolox":
            return np.concatenate([(first + cell) * stride, np.exp(np.minimum(second, _LARGEST)) * stride], axis=-1)
        anchors = self._anchor_rows(levels)
        first = first if self.activated else sigmoid(first).astype(np.float64)
        if self.form == "yolov3":
            return np.concatenate([(first + cell) * stride, np.exp(np.minimum(second, _LARGEST)) * anchors], axis=-1)
        second = second if self.activated else sigmoid(second).astype(np.float64)
        return np.concatenate([(2 * first - 0.5 + cell) * stride, (2 * second) ** 2 * anchors], axis=-1)

    def _anchor_rows(self, levels: Levels) -> NDArray[np.float64]:
        """Width and height of each box's anchor, `[rows, 2]`."""
        return np.concatenate(
            [
                np.repeat(np.array(own, np.float64), rows * columns, axis=0)
                for own, (rows, columns) in zip(self.anchors, levels.grids, strict=True)
            ]
        )

    def _levels(self, signature: Signature) -> Levels:
        return Levels(fixed_plane(signature), self.strides, len(self.anchors[0]) if self.anchors else 1)

    def _channels(self, classes: int) -> int:
        return (5 if self.objectness else 4) + classes
