"""Points of objects: similarity as COCO defines it, errors as shares of the object's size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from compress.core.errors import ConfigError
from compress.core.io import Arrays, Frame, Signature
from compress.tasks.base import Agreement, Metric, NoFit, Task, plane_size, shown
from compress.tasks.keypoints.centre_heads import CentreHeadsDecoder
from compress.tasks.keypoints.coordinates import CoordinateDecoder
from compress.tasks.keypoints.decoder import PointDecoder, Points, points_on_picture
from compress.tasks.keypoints.evaluator import NME, OKS_AP, OKS_AP50, PCK, KeyPointsEvaluator
from compress.tasks.keypoints.heatmaps import HeatmapDecoder
from compress.tasks.keypoints.oks import COCO_SIGMAS

__all__ = ["AnyPointDecoder", "KeyPointsTask"]

AnyPointDecoder: TypeAlias = Annotated[
    HeatmapDecoder | CoordinateDecoder | CentreHeadsDecoder, Field(discriminator="kind")
]

_SIGMA = sum(COCO_SIGMAS) / len(COCO_SIGMAS)
"""Of a point that nobody measured the annotators' spread of: the mean of COCO's."""

_USUAL: tuple[PointDecoder, ...] = (CentreHeadsDecoder(), HeatmapDecoder(), CoordinateDecoder())


class KeyPointsTask(Task):
    """Points of one object per sample: a person in a crop, a face, a hand.

    Attributes:
        decoder: how the outputs are written; the name alone takes its defaults.
        sigmas: spread of each point as a share of the object's size; none takes COCO's for 17 points, and their mean
            for any other number.
        tolerance: of a correct key point (PCK) as a share of the longer side of its object's box.
        same: two models agree on a point that lies within this share of the input's longer side.
    """

    name: ClassVar[str] = "keypoints"
    metrics: ClassVar[tuple[Metric, ...]] = (OKS_AP, OKS_AP50, PCK, NME)

    decoder: AnyPointDecoder = HeatmapDecoder()
    sigmas: tuple[Annotated[float, Field(gt=0)], ...] = ()
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.1
    same: Annotated[float, Field(gt=0, lt=1)] = 0.02

    @field_validator("decoder", mode="before")
    @classmethod
    def _by_name(cls, value: object) -> object:
        return {"kind": value} if isinstance(value, str) else value

    def check(self, signature: Signature, classes: Sequence[str]) -> None:
        """Hold the outputs against what the decoder reads.

        Raises:
            ConfigError: they do not fit; names the tensors, their shapes and the nearest decoder that would.
        """
        del classes
        try:
            points = self.decoder.fit(signature)
        except NoFit as error:
            raise ConfigError(
                f"decoder {self.decoder.kind} reads {error}; the model gives {shown(signature.outputs)}",
                fix=_nearest(signature) or "describe the outputs in task.decoder, or task=fidelity",
            ) from error
        if self.sigmas and len(self.sigmas) != points:
            raise ConfigError(f"task.sigmas has {len(self.sigmas)} values, the model gives {points} points")

    def evaluator(self, signature: Signature, classes: Sequence[str]) -> KeyPointsEvaluator:
        """Compare points with labelled ones."""
        del classes
        points = self.decoder.fit(signature)
        return KeyPointsEvaluator(
            lambda outputs, frames: self.locate(outputs, frames, signature), self._sigmas(points), self.tolerance
        )

    def locate(self, outputs: Arrays, frames: Sequence[Frame | None], signature: Signature) -> Points:
        """Points of each sample in pixels of its picture.

        Raises:
            StageError: an output holds NaN.
        """
        return points_on_picture(self.decoder.decode(outputs, signature), frames)

    def agreement(
        self,
        reference: Arrays,
        candidate: Arrays,
        frames: Sequence[Frame | None],
        signature: Signature,
        classes: Sequence[str],
    ) -> Agreement:
        """Points that lie within `same` of the reference's, on the input plane, per sample."""
        del frames, classes
        exact, other = (self.decoder.decode(outputs, signature).places for outputs in (reference, candidate))
        plane = plane_size(signature)
        reach = self.same * (max(plane) if plane else float(np.abs(exact).max(initial=0.0)))
        points = np.full(len(exact), exact.shape[1], np.int64)
        near = np.linalg.norm(exact - other, axis=2) <= reach
        return Agreement(near.sum(axis=1).astype(np.int64), points, points)

    def _sigmas(self, points: int) -> NDArray[np.float64]:
        if self.sigmas:
            return np.array(self.sigmas, np.float64)
        return np.array(COCO_SIGMAS if points == len(COCO_SIGMAS) else [_SIGMA] * points, np.float64)


def _nearest(signature: Signature) -> str | None:
    """The first usual decoder that would read the outputs, as one types it; None if none would."""
    for decoder in _USUAL:
        try:
            decoder.fit(signature)
        except NoFit:
            continue
        return f"task.decoder={decoder.model_dump()['kind']}"
    return None
