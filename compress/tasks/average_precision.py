"""Average precision as COCO reckons it, of any weighting of the pictures: resampling 200 pictures takes a millisecond.

Recall and precision change only where an answer meets an object, so that what is kept per threshold is the hits; the
misses between them are one running sum. The figures are those of pycocotools' `accumulate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Judged", "PrecisionCurves"]

_RECALLS: NDArray[np.float64] = np.linspace(0.0, 1.0, 101)
"""At which COCO reads the precision."""


@dataclass(frozen=True)
class Judged:
    """The answers for one class in one picture, the surest first.

    Attributes:
        picture, label: positions.
        scores: `[answers]`.
        hit, out: whether an answer meets an object that counts, or an ignored one, `[thresholds, answers]`.
        objects: that count.
    """

    picture: int
    label: int
    scores: NDArray[np.float64]
    hit: NDArray[np.bool_]
    out: NDArray[np.bool_]
    objects: int


class PrecisionCurves:
    """All answers of all pictures, sorted once by class and score.

    Args:
        pictures: how many there are, those without objects and answers included.
        thresholds: how many overlaps were judged at.
    """

    def __init__(self, judged: Sequence[Judged], *, pictures: int, classes: int, thresholds: int) -> None:
        self._pictures, self._classes, self._thresholds = pictures, classes, thresholds
        self._objects = np.zeros((pictures, classes), np.int64)
        for own in judged:
            self._objects[own.picture, own.label] = own.objects
        counts = [len(own.scores) for own in judged]
        picture = np.repeat(np.array([own.picture for own in judged], np.int64), counts)
        label = np.repeat(np.array([own.label for own in judged], np.int64), counts)
        scores = np.concatenate([own.scores for own in judged]) if judged else np.zeros(0)
        hit, out = (
            np.concatenate(parts, axis=1) if judged else np.zeros((thresholds, 0), np.bool_)
            for parts in ([own.hit for own in judged], [own.out for own in judged])
        )
        order = np.lexsort((picture, -scores, label))  # equal scores in the order of the pictures, as mergesort leaves
        self._picture, label = picture[order], label[order]
        threshold, self._position = np.nonzero(hit[:, order])
        self._label = label[self._position]
        self._curve = threshold * classes + self._label  # hits lie by threshold, then by class, then by score
        self._first = np.flatnonzero(np.diff(self._curve, prepend=-1))  # hit of each curve that has one
        self._lengths = np.diff(self._first, append=len(self._curve))
        self._start = np.searchsorted(label, np.arange(classes))[self._label]  # of each hit's class among all answers
        out_threshold, self._out = np.nonzero(out[:, order])
        ignored = out_threshold * len(label) + self._out
        self._out_start = np.searchsorted(ignored, threshold * len(label) + self._start)
        self._out_end = np.searchsorted(ignored, threshold * len(label) + self._position)

    @property
    def objects(self) -> NDArray[np.int64]:
        """Objects that count, by class, `[classes]`."""
        counts: NDArray[np.int64] = self._objects.sum(axis=0)
        return counts

    def average_precision(self, weights: NDArray[np.int64]) -> NDArray[np.float64]:
        """Area under each precision curve where picture `i` counts `weights[i]` times, `[thresholds, classes]`.

        The mean at 101 recalls of the best precision at that recall or a higher one; NaN for a class without objects.
        """
        objects = weights @ self._objects
        areas = np.zeros(self._thresholds * self._classes)
        if len(self._position):
            self._add_areas(areas, weights, objects)
        table = areas.reshape(self._thresholds, self._classes)
        table[:, objects == 0] = np.nan
        return table

    def _add_areas(self, areas: NDArray[np.float64], weights: NDArray[np.int64], objects: NDArray[np.int64]) -> None:
        """Write the area of each curve that has hits into `areas` `[thresholds * classes]`."""
        drawn = weights[self._picture]
        answers, ignored = _running(drawn), _running(drawn[self._out])
        answered = (
            answers[self._position + 1] - answers[self._start] - ignored[self._out_end] + ignored[self._out_start]
        )
        first = self._first
        hits = np.cumsum(drawn[self._position])
        hits -= np.repeat(hits[first] - drawn[self._position[first]], self._lengths)
        precision = np.where(answered > 0, hits / np.maximum(answered, 1), 0.0)
        recall = hits / np.maximum(objects[self._label], 1)
        reached = np.searchsorted(_RECALLS, recall, side="right")
        gained = np.diff(reached, prepend=0)
        gained[first] = reached[first]
        areas[self._curve[first]] = np.add.reduceat(_best_from_here(precision, first, self._lengths) * gained, first)
        areas /= len(_RECALLS)


def _running(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sums of the first 0, 1, 2, ... counts, one longer than they are."""
    return np.concatenate([[0], np.cumsum(counts)])


def _best_from_here(
    precision: NDArray[np.float64], first: NDArray[np.int64], lengths: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The highest precision of each hit and those after it in its curve: one running maximum from the end.

    Curves are lifted above the ones behind them, two apart because precision is at most 1, so that none sees another.
    """
    lift = np.repeat(2.0 * np.arange(len(first), 0, -1), lengths)
    best: NDArray[np.float64] = np.maximum.accumulate((precision + lift)[::-1])[::-1] - lift
    return best
