"""Distances to the four sides as distributions over bins (Li et al. 2020, "Generalized focal loss"), as in YOLOv8."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from compress.core.io import Arrays, Signature
from compress.tasks.base import NoFit
from compress.tasks.detection.candidates import Candidates, above, softmax
from compress.tasks.detection.decoder import Decoder, fixed_plane, sigmoid
from compress.tasks.detection.levels import Levels

__all__ = ["DflDecoder"]


class DflDecoder(Decoder):
    """Four distributions and a score for each class, for every cell: together, or boxes and scores apart.

    distance = sum over bins of softmax(logits) bin; corners = ((cell + 0.5) -/+ distance) stride

    Attributes:
        strides: pixels of the plane for each cell, level by level.
        bins: of each distribution; 1 where the distances themselves are given, in cells.
        activated: whether the scores have been through a sigmoid in the model.
    """

    kind: Literal["dfl"] = "dfl"
    strides: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (8, 16, 32)
    bins: Annotated[int, Field(ge=1)] = 16
    activated: bool = False

    def fit(self, signature: Signature, classes: int) -> None:
        """Raise `NoFit` where distributions or scores are missing for a level."""
        self._sources(signature, classes)

    def decode(self, outputs: Arrays, signature: Signature, classes: int, threshold: float) -> list[Candidates]:
        """Boxes of each sample, one for each class that is surer than `threshold`."""
        levels = Levels(fixed_plane(signature), self.strides)
        sources = self._sources(signature, classes)
        parts = [levels.read(outputs, names, channels) for names, channels in sources]
        values = np.concatenate(parts, axis=-1)
        sides = values[..., : 4 * self.bins].reshape(*values.shape[:2], 4, self.bins)
        distances = softmax(sides) @ np.arange(self.bins) if self.bins > 1 else sides[..., 0].astype(np.float64)
        scores = values[..., 4 * self.bins :]
        cells = levels.centres().astype(np.float64)
        centre, stride = cells[:, :2] + 0.5, cells[:, 2:]
        corners = np.concatenate([centre - distances[..., :2], centre + distances[..., 2:]], axis=-1) * stride
        scores = scores if self.activated else sigmoid(scores)
        return [above(*sample, threshold) for sample in zip(corners, scores, strict=True)]

    def _sources(self, signature: Signature, classes: int) -> list[tuple[tuple[str, ...], int]]:
        """The outputs to join, boxes first, each with its number of columns."""
        levels = Levels(fixed_plane(signature), self.strides)
        together = levels.outputs(signature.outputs, 4 * self.bins + classes)
        if together is not None:
            return [(together, 4 * self.bins + classes)]
        sides = levels.outputs(signature.outputs, 4 * self.bins)
        left = [spec for spec in signature.outputs if spec.name not in (sides or ())]
        scores = levels.outputs(left, classes)
        if sides is None or scores is None:
            raise NoFit(f"{levels.wanted(4 * self.bins + classes)}, or {4 * self.bins} and {classes} apart")
        return [(sides, 4 * self.bins), (scores, classes)]
