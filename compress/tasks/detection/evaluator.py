"""mAP as COCO reckons it: the mean over classes and overlaps of the area under the precision curve."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import DataError
from compress.core.io import Arrays, Boxes, Frame, Target
from compress.tasks.average_precision import Judged, PrecisionCurves
from compress.tasks.base import ClassScore, Evaluator, Metric, sample_name
from compress.tasks.detection.candidates import Candidates
from compress.tasks.matching import THRESHOLDS, box_iou, match

__all__ = ["MAP", "MAP50", "DetectionEvaluator"]

MAP = Metric("map", "mAP 50:95")
MAP50 = Metric("map50", "mAP 50")

_MOST = 100
"""Boxes of one class in one picture that COCO looks at, the surest first (`maxDets`)."""


class DetectionEvaluator(Evaluator):
    """Keeps which boxes met an object, per picture and class.

    Boxes are judged in pixels of the picture as stored, over all sizes of objects.

    Args:
        detect: boxes of each sample from a batch's outputs and frames.
    """

    metrics = (MAP, MAP50)

    def __init__(
        self, detect: Callable[[Arrays, Sequence[Frame | None]], list[Candidates]], classes: Sequence[str]
    ) -> None:
        self._detect = detect
        self._classes = tuple(classes)
        self._judged: list[Judged] = []
        self._samples = 0
        self._curves: PrecisionCurves | None = None

    @property
    def samples(self) -> int:
        """Number of samples seen."""
        return self._samples

    def update(
        self, outputs: Arrays, targets: Sequence[Target], frames: Sequence[Frame | None], names: Sequence[str] = ()
    ) -> None:
        """Take in outputs and labelled boxes.

        Raises:
            StageError: an output holds NaN.
            DataError: a target is no boxes, or has a class that there is not; names the sample.
        """
        for position, target in enumerate(targets):
            _require_boxes(target, len(self._classes), sample_name(names, position, self._samples))
        for candidates, target in zip(self._detect(outputs, frames), targets, strict=True):
            assert isinstance(target, Boxes)
            self._judged += judge(candidates, target, self._samples)
            self._samples += 1
        self._curves = None

    def weighted(self, metric: str, weights: NDArray[np.int64]) -> NDArray[np.float64]:
        """mAP over all overlaps or at 0.5, `[r, n] -> [r]`."""
        asked = self.metric(metric)
        return np.array([_mean(self._table(row)[: 1 if asked is MAP50 else None]) for row in weights])

    def table(self) -> tuple[ClassScore, ...]:
        """Average precision 50:95 of each class, with its labelled objects."""
        areas = self._table(np.ones(self._samples, np.int64)).mean(axis=0)
        counts = self._curve().objects
        return tuple(
            ClassScore(name, int(count), float(area) if count else None)
            for name, count, area in zip(self._classes, counts, areas, strict=True)
        )

    def _table(self, weights: NDArray[np.int64]) -> NDArray[np.float64]:
        return self._curve().average_precision(weights)

    def _curve(self) -> PrecisionCurves:
        if self._curves is None:
            self._curves = PrecisionCurves(
                self._judged, pictures=self._samples, classes=len(self._classes), thresholds=len(THRESHOLDS)
            )
        return self._curves


def judge(candidates: Candidates, target: Boxes, picture: int) -> list[Judged]:
    """Match the boxes of one picture, class by class."""
    judged = []
    for label in np.union1d(candidates.labels, target.labels):
        own = np.flatnonzero(candidates.labels == label)
        own = own[np.argsort(-candidates.scores[own], kind="stable")[:_MOST]]
        wanted = target.labels == label
        crowd = target.crowd[wanted]
        overlaps = box_iou(candidates.corners[own], target.corners[wanted], crowd)
        hit, out = match(overlaps, crowd, crowd)
        scores = candidates.scores[own].astype(np.float64)
        judged.append(Judged(picture, int(label), scores, hit, out, int((~crowd).sum())))
    return judged


def _mean(areas: NDArray[np.float64]) -> float:
    """Over the classes that have objects; NaN where none has."""
    known = areas[~np.isnan(areas)]
    return float(known.mean()) if len(known) else np.nan


def _require_boxes(target: Target, classes: int, name: str) -> None:
    if not isinstance(target, Boxes):
        raise DataError(f"{name} has no boxes but {type(target).__name__}", fix="use data=coco or data=yolo")
    labels = target.labels
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise DataError(
            f"{name} has a box of class {wrong[0]}, but the model gives {classes} classes (0 to {classes - 1})",
            fix="use a model trained for this data set",
        )
