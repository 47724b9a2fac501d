"""OKS AP as COCO reckons it, the normalised mean error and the share of correct key points."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from compress.errors import DataError
from compress.io import Arrays, Frame, KeyPoints, Target
from compress.tasks.average_precision import Judged, PrecisionCurves
from compress.tasks.base import Evaluator, Metric, sample_name
from compress.tasks.keypoints.decoder import Points
from compress.tasks.keypoints.oks import object_similarity
from compress.tasks.matching import THRESHOLDS, match

__all__ = ["NME", "OKS_AP", "OKS_AP50", "PCK", "KeyPointsEvaluator"]

OKS_AP = Metric("oks_ap", "OKS AP")
OKS_AP50 = Metric("oks_ap50", "OKS AP 50")
PCK = Metric("pck", "PCK")
NME = Metric("nme", "NME", higher_is_better=False)


class KeyPointsEvaluator(Evaluator):
    """Keeps for each sample whether its object was met at each similarity, and the errors of its points.

    A sample is one object as the model sees it. Where the target has several (a picture with a crowd), the model
    answers for the one it is most similar to; the others count as missed.

    Args:
        locate: points of each sample from a batch's outputs and frames, in pixels of the picture.
        sigmas: of each point, `[k]`.
        tolerance: of a correct key point, as a share of the longer side of its object's box.
    """

    metrics = (OKS_AP, OKS_AP50, PCK, NME)

    def __init__(
        self,
        locate: Callable[[Arrays, Sequence[Frame | None]], Points],
        sigmas: NDArray[np.float64],
        tolerance: float,
    ) -> None:
        self._locate = locate
        self._sigmas = sigmas
        self._tolerance = tolerance
        self._judged: list[Judged] = []
        self._sums: list[tuple[float, int, int]] = []
        self._curves: PrecisionCurves | None = None

    @property
    def samples(self) -> int:
        """Number of samples seen."""
        return len(self._sums)

    def update(
        self, outputs: Arrays, targets: Sequence[Target], frames: Sequence[Frame | None], names: Sequence[str] = ()
    ) -> None:
        """Take in outputs and labelled points.

        Raises:
            StageError: an output holds NaN.
            DataError: a target is no points, or has another number of them than the model; names the sample.
        """
        for position, target in enumerate(targets):
            _require_points(target, len(self._sigmas), sample_name(names, position, self.samples))
        points = self._locate(outputs, frames)
        for places, scores, target in zip(points.places, points.scores, targets, strict=True):
            assert isinstance(target, KeyPoints)
            self._take(places, float(scores.mean()), target)
        self._curves = None

    def weighted(self, metric: str, weights: NDArray[np.int64]) -> NDArray[np.float64]:
        """AP over all similarities or at 0.5, PCK or NME, `[r, n] -> [r]`."""
        asked = self.metric(metric)
        if asked in (OKS_AP, OKS_AP50):
            rows = slice(1) if asked is OKS_AP50 else slice(None)
            return np.array([self._curve().average_precision(row)[rows, 0].mean() for row in weights])
        error, correct, labelled = (weights @ np.array(self._sums, np.float64)).T
        with np.errstate(invalid="ignore", divide="ignore"):
            shares: NDArray[np.float64] = (correct if asked is PCK else error) / labelled
        return shares

    def _take(self, places: NDArray[np.float64], score: float, target: KeyPoints) -> None:
        similarity = object_similarity(places[None], target, self._sigmas)
        crowd = target.boxes.crowd
        ignored = crowd | ~(target.visibility > 0).any(axis=1)
        hit, out = match(similarity, ignored, crowd)
        objects = int((~ignored).sum())
        self._judged.append(Judged(len(self._sums), 0, np.array([score]), hit, out, objects))
        self._sums.append(self._errors(places, target, similarity[0], ignored))

    def _errors(
        self,
        places: NDArray[np.float64],
        target: KeyPoints,
        similarity: NDArray[np.float64],
        ignored: NDArray[np.bool_],
    ) -> tuple[float, int, int]:
        """Sum of the errors as shares of the box, number of correct and of labelled points, of the nearest object."""
        if ignored.all():
            return 0.0, 0, 0
        nearest = int(np.where(ignored, -1.0, similarity).argmax())
        labelled = target.visibility[nearest] > 0
        x0, y0, x1, y1 = target.boxes.corners[nearest].astype(np.float64)
        side = max(x1 - x0, y1 - y0, np.spacing(1.0))
        errors = np.linalg.norm(places - target.points[nearest], axis=1)[labelled] / side
        return float(errors.sum()), int((errors <= self._tolerance).sum()), int(labelled.sum())

    def _curve(self) -> PrecisionCurves:
        if self._curves is None:
            self._curves = PrecisionCurves(self._judged, pictures=self.samples, classes=1, thresholds=len(THRESHOLDS))
        return self._curves


def _require_points(target: Target, points: int, name: str) -> None:
    if not isinstance(target, KeyPoints):
        raise DataError(f"{name} has no key points but {type(target).__name__}", fix="use data=coco with key points")
    if target.points.shape[1] != points:
        raise DataError(
            f"{name} has {target.points.shape[1]} points, the model gives {points}",
            fix="use a model trained for this data set",
        )
