"""One class per sample: top-1, and top-5 where there are enough classes for it to say anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import ConfigError, DataError
from compress.core.io import Array, Arrays, Frame, Signature, Target
from compress.tasks.base import Agreement, ClassScore, Evaluator, Metric, Task, finite_output, sample_name, shown

__all__ = ["TOP1", "TOP5", "ClassificationEvaluator", "ClassificationTask"]

TOP1 = Metric("top1", "top-1")
TOP5 = Metric("top5", "top-5")

_FEWEST_FOR_TOP5 = 10
"""Below, five guesses are half of all classes or more."""


class ClassificationTask(Task):
    """Scores for every class, one row per sample; the highest is the answer.

    Attributes:
        output: name of the output with the scores; None where the model has one that fits.
    """

    name: ClassVar[str] = "classification"
    metrics: ClassVar[tuple[Metric, ...]] = (TOP1, TOP5)

    output: str | None = None

    def check(self, signature: Signature, classes: Sequence[str]) -> None:
        """Hold the model to one row of scores, at least one for each class.

        Raises:
            ConfigError: it has none, or several and `output` names none of them.
        """
        name = self._scores(signature)
        (spec,) = (spec for spec in signature.outputs if spec.name == name)
        count = spec.shape[0]
        if count is not None and classes and count < len(classes):
            raise ConfigError(
                f"output {shown([spec])} has scores for {count} classes, the data has {len(classes)}",
                fix="use a model trained for this data set",
            )

    def evaluator(self, signature: Signature, classes: Sequence[str]) -> ClassificationEvaluator:
        """Count right answers."""
        return ClassificationEvaluator(self._scores(signature), classes)

    def agreement(
        self,
        reference: Arrays,
        candidate: Arrays,
        frames: Sequence[Frame | None],
        signature: Signature,
        classes: Sequence[str],
    ) -> Agreement:
        """Tell whether the arg-max is the same, per sample."""
        del frames, classes
        name = self._scores(signature)
        exact, other = (_rows(finite_output(outputs, name)) for outputs in (reference, candidate))
        return Agreement.of_bits(exact.argmax(axis=1) == other.argmax(axis=1))

    def _scores(self, signature: Signature) -> str:
        fitting = [spec.name for spec in signature.outputs if _is_row(spec.shape)]
        if self.output is not None:
            if self.output in fitting:
                return self.output
            raise ConfigError(
                f"output {self.output!r} is not one row of class scores; the model gives {shown(signature.outputs)}",
                fix=f"task.output={' or '.join(fitting)}" if fitting else _OTHER_TASK,
            )
        if len(fitting) == 1:
            return fitting[0]
        problem = f"{self.name} reads one row of class scores [N, classes]; the model gives {shown(signature.outputs)}"
        raise ConfigError(problem, fix=f"task.output={' or '.join(fitting)}" if fitting else _OTHER_TASK)


_OTHER_TASK = "task=detection, segmentation or keypoints for what the model gives, or task=fidelity for any output"


def _is_row(shape: tuple[int | None, ...]) -> bool:
    return len(shape) >= 1 and all(size == 1 for size in shape[1:]) and shape[0] != 1


def _rows(scores: Array) -> NDArray[np.float64]:
    """Scores `[n, classes]` of an output that may have axes of one element behind; wider, so that their order stays."""
    return scores.reshape(len(scores), -1).astype(np.float64)


class ClassificationEvaluator(Evaluator):
    """Keeps for each sample whether its class is among the highest one and five scores.

    Ties count as NumPy's arg-max does: the first of equal scores is the answer.
    """

    def __init__(self, output: str, classes: Sequence[str]) -> None:
        self._output = output
        self._classes = tuple(classes)
        self.metrics = (TOP1, TOP5) if len(self._classes) >= _FEWEST_FOR_TOP5 else (TOP1,)
        self._ranks: list[NDArray[np.int64]] = []
        self._labels: list[NDArray[np.int64]] = []

    @property
    def samples(self) -> int:
        """Number of samples seen."""
        return sum(len(ranks) for ranks in self._ranks)

    def update(
        self, outputs: Arrays, targets: Sequence[Target], frames: Sequence[Frame | None], names: Sequence[str] = ()
    ) -> None:
        """Take in scores `[n, classes]` and labels from 0.

        Raises:
            StageError: a score is NaN.
            DataError: a label is no class of the model's; names the sample.
        """
        del frames
        scores = _rows(finite_output(outputs, self._output))
        labels = label_array(targets, scores.shape[1], names, self.samples)
        own = scores[np.arange(len(labels)), labels][:, None]
        before = np.arange(scores.shape[1])[None] < labels[:, None]
        self._ranks.append(((scores > own) | ((scores == own) & before)).sum(axis=1).astype(np.int64))
        self._labels.append(labels)

    def weighted(self, metric: str, weights: NDArray[np.int64]) -> NDArray[np.float64]:
        """Share of right samples, `[r, n] -> [r]`."""
        shares: NDArray[np.float64] = (weights @ self.successes(metric)) / weights.sum(axis=1)
        return shares

    def successes(self, metric: str) -> NDArray[np.bool_]:
        """Per sample, whether its class is among the highest scores."""
        limit = 1 if self.metric(metric) is TOP1 else 5
        return _joined(self._ranks) < limit

    def table(self) -> tuple[ClassScore, ...]:
        """Top-1 of each class's samples (recall)."""
        labels, right = _joined(self._labels), self.successes(TOP1.name)
        rows = []
        for index, name in enumerate(self._classes):
            own = labels == index
            rows.append(ClassScore(name, int(own.sum()), float(right[own].mean()) if own.any() else None))
        return tuple(rows)


def label_array(targets: Sequence[Target], classes: int, names: Sequence[str], seen: int) -> NDArray[np.int64]:
    """Labels `[n]` of samples that have one class each.

    Raises:
        DataError: one is no class number, or none of the model's `classes`; names the sample.
    """
    labels = np.empty(len(targets), np.int64)
    for position, target in enumerate(targets):
        if not isinstance(target, (int, np.integer)) or isinstance(target, bool):
            raise DataError(
                f"{sample_name(names, position, seen)} has no class number but {type(target).__name__}",
                fix="use data with one class for each sample, or another task",
            )
        if not 0 <= target < classes:
            raise DataError(
                f"{sample_name(names, position, seen)} has label {target}, but the model gives {classes} classes "
                f"(0 to {classes - 1})",
                fix="use a model trained for this data set",
            )
        labels[position] = target
    return labels


def _joined(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)
