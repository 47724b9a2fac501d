"""OKS AP as COCO reckons it, the normalised mean error and the share of correct key points."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import DataError
from compress.core.io import Arrays, Frame, KeyPoints, Target
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


_MOST = 20
"""Answers in one picture that COCO looks at, the surest first (`maxDets` of key points)."""


@dataclass(frozen=True)
class _Answer:
    """Answer of the model for one sample, held against all objects of its picture, each `[n]`."""

    picture: str
    subject: int | None
    score: float
    similarity: NDArray[np.float64]
    ignored: NDArray[np.bool_]
    crowd: NDArray[np.bool_]

    @property
    def about(self) -> NDArray[np.bool_]:
        """The objects that the sample is about, `[n]`."""
        return (
            np.ones(len(self.ignored), np.bool_)
            if self.subject is None
            else np.arange(len(self.ignored)) == self.subject
        )


class KeyPointsEvaluator(Evaluator):
    """Keeps for each sample whether its object was met at each similarity, and the errors of its points.

    A sample is a picture, or a crop around one of its people (`KeyPoints.subject`). Answers for crops of one picture
    compete for all of its objects, as COCO has it: whoever stands in front may be met from a neighbour's crop. Objects
    that no sample is about are nobody's to find. Where a sample is about a whole picture, the model answers for the
    object it is most similar to, and the others count as missed.

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
        self._answers: list[_Answer] = []
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
        similarity = object_similarity(places[None], target, self._sigmas)[0]
        crowd = target.boxes.crowd
        ignored = crowd | ~(target.visibility > 0).any(axis=1)
        self._sums.append(self._errors(places, target, similarity, ignored))
        self._answers.append(_Answer(target.picture, target.subject, score, similarity, ignored, crowd))

    def _errors(
        self,
        places: NDArray[np.float64],
        target: KeyPoints,
        similarity: NDArray[np.float64],
        ignored: NDArray[np.bool_],
    ) -> tuple[float, int, int]:
        """Sum of the errors as shares of the box, number of correct and of labelled points, of the nearest object."""
        if ignored.all() or (target.subject is not None and ignored[target.subject]):
            return 0.0, 0, 0
        nearest = int(np.where(ignored, -1.0, similarity).argmax()) if target.subject is None else target.subject
        labelled = target.visibility[nearest] > 0
        x0, y0, x1, y1 = target.boxes.corners[nearest].astype(np.float64)
        side = max(x1 - x0, y1 - y0, np.spacing(1.0))
        errors = np.linalg.norm(places - target.points[nearest], axis=1)[labelled] / side
        return float(errors.sum()), int((errors <= self._tolerance).sum()), int(labelled.sum())

    def _curve(self) -> PrecisionCurves:
        if self._curves is None:
            pictures: dict[str, list[int]] = defaultdict(list)
            for sample, answer in enumerate(self._answers):
                pictures[answer.picture or f"\0{sample}"].append(sample)
            judged = [own for samples in pictures.values() for own in self._judge(samples)]
            self._curves = PrecisionCurves(judged, pictures=self.samples, classes=1, thresholds=len(THRESHOLDS))
        return self._curves

    def _judge(self, samples: list[int]) -> list[Judged]:
        """Match the answers for the crops of one picture; each sample owns its answer and the objects it is about."""
        samples = sorted(samples, key=lambda sample: -self._answers[sample].score)
        answers = [self._answers[sample] for sample in samples]
        asked = np.any([answer.about for answer in answers], axis=0)
        ignored = answers[0].ignored | ~asked
        similarity = np.stack([answer.similarity for answer in answers[:_MOST]])
        hit, out = match(similarity, ignored, answers[0].crowd)
        judged = []
        for rank, (sample, answer) in enumerate(zip(samples, answers, strict=True)):
            own = slice(rank, rank + 1)  # nothing beyond the answers that are looked at
            scores = np.array([answer.score])[: hit[:, own].shape[1]]
            judged.append(Judged(sample, 0, scores, hit[:, own], out[:, own], int((answer.about & ~ignored).sum())))
        return judged


def _require_points(target: Target, points: int, name: str) -> None:
    if not isinstance(target, KeyPoints):
        raise DataError(f"{name} has no key points but {type(target).__name__}", fix="use data=coco with key points")
    if target.points.shape[1] != points:
        raise DataError(
            f"{name} has {target.points.shape[1]} points, the model gives {points}",
            fix="use a model trained for this data set",
        )
    if target.subject is not None and not 0 <= target.subject < len(target.points):
        raise DataError(f"{name} is about object {target.subject} of a picture with {len(target.points)}")
