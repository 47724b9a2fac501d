"""A class for every pixel: mean intersection over union (Everingham et al. 2010) and pixel accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import ConfigError, DataError
from compress.core.io import Array, Arrays, Frame, Mask, Signature, Target, TensorSpec
from compress.tasks.base import (
    Agreement,
    ClassScore,
    Evaluator,
    Metric,
    Task,
    finite_output,
    plane_size,
    sample_name,
    shown,
)

__all__ = ["MIOU", "PIXEL_ACCURACY", "SegmentationEvaluator", "SegmentationTask", "class_map", "on_picture"]

MIOU = Metric("miou", "mIoU")
PIXEL_ACCURACY = Metric("pixel_accuracy", "pixel accuracy")


_ON_EDGE = 1e-9
"""Of an element: a pixel whose centre lies on an edge belongs to the later one, whatever rounding took from it."""


class SegmentationTask(Task):
    """Class scores `[classes, height, width]`, or the classes themselves as integers `[height, width]`.

    Attributes:
        output: name of the output that is read; None where the model has one that fits.
        threshold: of a single plane of scores: above it a pixel is of class 1, at or below of class 0. 0 for logits,
            0.5 for probabilities.
    """

    name: ClassVar[str] = "segmentation"
    metrics: ClassVar[tuple[Metric, ...]] = (MIOU, PIXEL_ACCURACY)

    output: str | None = None
    threshold: float = 0.0

    def check(self, signature: Signature, classes: Sequence[str]) -> None:
        """Hold the model to one map, with a plane for each class.

        Raises:
            ConfigError: it has none, or several and `output` names none of them.
        """
        spec = self._map(signature)
        planes = spec.shape[0] if len(spec.shape) == 3 else None
        if planes not in (None, 1) and planes != len(classes):
            raise ConfigError(
                f"output {shown([spec])} has planes for {planes} classes, the data has {len(classes)}",
                fix="use a model trained for this data set",
            )
        if planes == 1 and not _whole(spec) and len(classes) != 2:
            raise ConfigError(
                f"output {shown([spec])} tells two classes apart, the data has {len(classes)}",
                fix="use a model trained for this data set",
            )

    def evaluator(self, signature: Signature, classes: Sequence[str]) -> SegmentationEvaluator:
        """Count pixels by class."""
        return SegmentationEvaluator(self._map(signature).name, classes, self.threshold, plane_size(signature))

    def agreement(
        self,
        reference: Arrays,
        candidate: Arrays,
        frames: Sequence[Frame | None],
        signature: Signature,
        classes: Sequence[str],
    ) -> Agreement:
        """Pixels of the map, at the model's own size, that get the same class."""
        del frames, classes
        name = self._map(signature).name
        exact, other = (class_map(finite_output(outputs, name), self.threshold) for outputs in (reference, candidate))
        pixels = np.full(len(exact), exact[0].size if len(exact) else 0, np.int64)
        return Agreement((exact == other).sum(axis=(1, 2)).astype(np.int64), pixels, pixels)

    def _map(self, signature: Signature) -> TensorSpec:
        fitting = [
            spec for spec in signature.outputs if len(spec.shape) == 3 or (len(spec.shape) == 2 and _whole(spec))
        ]
        chosen = [spec for spec in fitting if self.output in (None, spec.name)]
        if len(chosen) == 1:
            return chosen[0]
        names = " or ".join(spec.name for spec in fitting)
        raise ConfigError(
            f"{self.name} reads one map [N, classes, height, width], or integers [N, height, width]; the model gives "
            f"{shown(signature.outputs)}" + (f", and task.output is {self.output!r}" if self.output else ""),
            fix=f"task.output={names}" if names else "task=classification, or task=fidelity for any output",
        )


def _whole(spec: TensorSpec) -> bool:
    return np.issubdtype(np.dtype(spec.dtype), np.integer) or spec.dtype == "bool"


def class_map(output: Array, threshold: float) -> NDArray[np.int64]:
    """The class of each pixel, `[n, height, width]`, from planes of scores, one plane, or classes as integers."""
    if not np.issubdtype(output.dtype, np.floating):
        return output.reshape(len(output), *output.shape[-2:]).astype(np.int64)
    scores = output.astype(np.float32, copy=False)
    if scores.shape[1] == 1:
        return (scores[:, 0] > threshold).astype(np.int64)
    classes: NDArray[np.int64] = scores.argmax(axis=1)
    return classes


def on_picture(
    classes: NDArray[np.int64], frame: Frame | None, plane: tuple[int, int] | None, outside: int
) -> NDArray[np.int64]:
    """A map `[h, w]` at the size of the picture as stored: for each pixel the nearest element of the map.

    Args:
        frame: None where map and picture are the same.
        plane: size of the model's input, which the map covers; None where it has the map's size.
        outside: for pixels that the model never saw, which a crop cut off.
    """
    if frame is None:
        return classes
    rows, columns = (
        _nearest(length, frame.scale[axis], frame.offset[axis], (plane or classes.shape)[axis], classes.shape[axis])
        for axis, length in enumerate((frame.height, frame.width))
    )
    resized = classes[np.maximum(rows, 0)[:, None], np.maximum(columns, 0)[None]]
    resized[rows < 0], resized[:, columns < 0] = outside, outside
    return resized


def _nearest(pixels: int, scale: float, offset: float, plane: int, elements: int) -> NDArray[np.int64]:
    """Position in the map of the centre of each pixel of an axis, `[pixels]`; -1 outside."""
    centres = ((np.arange(pixels) + 0.5) * scale + offset) * (elements / plane)
    positions: NDArray[np.int64] = np.floor(centres + _ON_EDGE).astype(np.int64)
    positions[(positions < 0) | (positions >= elements)] = -1
    return positions


class SegmentationEvaluator(Evaluator):
    """Keeps for each sample, by class, how many pixels are right, labelled and answered: `[n, 3, classes]`.

    That is what intersections and unions are made of; a confusion matrix per sample would say no more about them.
    The mean is over the classes that are labelled at all in the samples asked for. What the mask ignores, and what a
    crop cut off, is not judged.
    """

    metrics = (MIOU, PIXEL_ACCURACY)

    def __init__(
        self, output: str, classes: Sequence[str], threshold: float = 0.0, plane: tuple[int, int] | None = None
    ) -> None:
        self._output = output
        self._classes = tuple(classes)
        self._threshold = threshold
        self._plane = plane
        self._counts: list[NDArray[np.int64]] = []

    @property
    def samples(self) -> int:
        """Number of samples seen."""
        return len(self._counts)

    def update(
        self, outputs: Arrays, targets: Sequence[Target], frames: Sequence[Frame | None], names: Sequence[str] = ()
    ) -> None:
        """Take in maps and masks; each map is brought to its picture's size first.

        Raises:
            StageError: a score is NaN.
            DataError: a target is no mask, is of another size than its picture, or has a class that there is not.
        """
        maps = class_map(finite_output(outputs, self._output), self._threshold)
        for position, (own, target, frame) in enumerate(zip(maps, targets, frames, strict=True)):
            name = sample_name(names, position, len(self._counts))
            if not isinstance(target, Mask):
                raise DataError(f"{name} has no mask but {type(target).__name__}", fix="use data=masks")
            answers = on_picture(own, frame, self._plane, -1)
            if answers.shape != target.classes.shape:
                raise DataError(f"the mask of {name} is {_size(target.classes)}, its picture {_size(answers)}")
            self._counts.append(self._sample(answers, target, name))

    def weighted(self, metric: str, weights: NDArray[np.int64]) -> NDArray[np.float64]:
        """Mean IoU or pixel accuracy, `[r, n] -> [r]`."""
        asked = self.metric(metric)
        counts = np.stack(self._counts).astype(np.float64)  # exact up to 2^53 pixels, and products of floats are fast
        sums = np.tensordot(weights.astype(np.float64), counts, axes=1)  # [r, 3, classes]
        right, labelled = sums[:, 0], sums[:, 1]
        with np.errstate(invalid="ignore", divide="ignore"):
            if asked is PIXEL_ACCURACY:
                accuracy: NDArray[np.float64] = right.sum(axis=1) / labelled.sum(axis=1)
                return accuracy
            means: NDArray[np.float64] = np.where(labelled > 0, _iou(sums), 0).sum(axis=1) / (labelled > 0).sum(axis=1)
            return means

    def table(self) -> tuple[ClassScore, ...]:
        """IoU of each class over all samples, with its labelled pixels."""
        none = np.zeros((3, len(self._classes)), np.int64)
        sums = np.stack([none, *self._counts]).sum(axis=0, keepdims=True)
        values = _iou(sums.astype(np.float64))[0]
        return tuple(
            ClassScore(name, int(labelled), float(value) if labelled else None)
            for name, labelled, value in zip(self._classes, sums[0, 1], values, strict=True)
        )

    def _sample(self, answers: NDArray[np.int64], target: Mask, name: str) -> NDArray[np.int64]:
        count = len(self._classes)
        judged = (target.classes != target.ignore) & (answers >= 0)
        truth, answer = target.classes[judged], answers[judged]
        if truth.size and not 0 <= truth.min() <= truth.max() < count:
            wrong = truth[(truth < 0) | (truth >= count)][0]
            raise DataError(
                f"the mask of {name} has class {wrong}, but the model gives {count} classes (0 to {count - 1}, "
                f"{target.ignore} is ignored)",
                fix="use a model trained for this data set",
            )
        known = answer < count
        return np.stack(
            [
                np.bincount(truth[truth == answer], minlength=count),
                np.bincount(truth, minlength=count),
                np.bincount(answer[known], minlength=count),
            ]
        ).astype(np.int64)


def _iou(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union, `[r, 3, classes] -> [r, classes]`; 0 where neither is."""
    right, labelled, answered = sums[:, 0], sums[:, 1], sums[:, 2]
    return right / np.maximum(labelled + answered - right, 1)


def _size(pixels: NDArray[np.int64]) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"
