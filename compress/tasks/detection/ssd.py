"""Boxes relative to priors of fixed places and sizes (Liu et al. 2016, "SSD")."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from compress.core.io import Arrays, Signature
from compress.tasks.base import NoFit
from compress.tasks.detection.boxes_scores import Scores, activate, in_pixels, split_outputs
from compress.tasks.detection.candidates import Candidates, above, to_corners
from compress.tasks.detection.decoder import Decoder, fixed_plane, is_list, named, rows_of

__all__ = ["PriorLevel", "SsdDecoder"]

_LARGEST = 20.0  # exponent of a size, at most: e^20 priors are wider than any picture

Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0)]


class PriorLevel(BaseModel):
    """One feature map: at the centre of every cell the same priors.

    Attributes:
        rows, columns: of the map.
        sizes: width and height of each prior, in fractions of the input.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: Count
    columns: Count
    sizes: Annotated[tuple[tuple[Fraction, Fraction], ...], Field(min_length=1)]

    def priors(self) -> NDArray[np.float64]:
        """Centre and size of each, by row, column and size: `[rows * columns * sizes, 4]`."""
        row, column = np.divmod(np.arange(self.rows * self.columns), self.columns)
        centres = np.stack([(column + 0.5) / self.columns, (row + 0.5) / self.rows], axis=1)
        sizes = np.array(self.sizes, np.float64)
        return np.concatenate([np.repeat(centres, len(sizes), axis=0), np.tile(sizes, (len(centres), 1))], axis=1)


class SsdDecoder(Decoder):
    """Offsets `[priors, 4]` and scores `[priors, classes]`, two outputs in any order.

    centre = offset v0 size_prior + centre_prior, size = exp(offset v1) size_prior, in fractions of the input

    Attributes:
        levels: the priors, in the order of the rows.
        variances: v0 and v1; TensorFlow's `scale_factors` 10 and 5 are 0.1 and 0.2.
        order: of the two axes in an offset: `yx` in TensorFlow.
        boxes, scores: names of the two outputs; None finds them by their shape.
        background: whether class 0 of the scores is "nothing".
        activation: what the scores still need.
    """

    kind: Literal["ssd"] = "ssd"
    levels: Annotated[tuple[PriorLevel, ...], Field(min_length=1)]
    variances: tuple[Fraction, Fraction] = (0.1, 0.2)
    order: Literal["xy", "yx"] = "xy"
    boxes: str | None = None
    scores: str | None = None
    background: bool = True
    activation: Scores = "softmax"

    def fit(self, signature: Signature, classes: int) -> None:
        """Raise `NoFit` where there are no offsets, or not one for each prior."""
        fixed_plane(signature)
        names = split_outputs(signature, classes + self.background, self.boxes, self.scores)
        priors = len(self._priors())
        for name, columns in zip(names, (4, classes + self.background), strict=True):
            if not is_list(named(signature.outputs, name), columns, priors):
                raise NoFit(f"{priors} priors: boxes [{priors}, 4] and scores [{priors}, {classes + self.background}]")

    def decode(self, outputs: Arrays, signature: Signature, classes: int, threshold: float) -> list[Candidates]:
        """Boxes of each sample, one for each class that is surer than `threshold`."""
        names = split_outputs(signature, classes + self.background, self.boxes, self.scores)
        offsets = rows_of(outputs, names[0], 4).astype(np.float64)
        if self.order == "yx":
            offsets = offsets[..., [1, 0, 3, 2]]
        scores = activate(rows_of(outputs, names[1], classes + self.background), self.activation)
        scores = scores[..., 1:] if self.background else scores
        priors = self._priors()
        sizes = priors[:, 2:]
        boxes = np.concatenate(
            [
                offsets[..., :2] * self.variances[0] * sizes + priors[:, :2],
                np.exp(np.minimum(offsets[..., 2:] * self.variances[1], _LARGEST)) * sizes,
            ],
            axis=-1,
        )
        corners = in_pixels(to_corners(boxes, "cxcywh"), signature)
        return [above(*sample, threshold) for sample in zip(corners, scores, strict=True)]

    def _priors(self) -> NDArray[np.float64]:
        return np.concatenate([level.priors() for level in self.levels])
