"""Task that a model is for: how its outputs are scored, compared, and fitted to the classes of a data set."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from compress.core.errors import ConfigError, StageError, nearest
from compress.core.io import Array, Arrays, Frame, Signature, Target, TensorSpec

__all__ = [
    "Agreement",
    "ClassScore",
    "Evaluator",
    "Metric",
    "NoFit",
    "Score",
    "Task",
    "finite_output",
    "plane_size",
    "sample_name",
    "shown",
]


@dataclass(frozen=True)
class Metric:
    """A figure that a task is judged by.

    Attributes:
        name: in documents, `map50`; unique within a task.
        title: for people, `mAP 50`.
        unit: `%` for fractions of 1, which are shown times a hundred; otherwise as it stands.
    """

    name: str
    title: str
    unit: str = "%"
    higher_is_better: bool = True

    def loss(self, change: float) -> float:
        """Loss by a change of the value: in points for fractions, in the metric's unit otherwise."""
        worse = -change if self.higher_is_better else change
        return 100 * worse if self.unit == "%" else worse


@dataclass(frozen=True)
class Score:
    """A metric's value, or its change, with a 95 % interval for all samples that these stand for.

    Attributes:
        low, high: None where the samples are too few to tell.
    """

    value: float
    low: float | None
    high: float | None
    samples: int


@dataclass(frozen=True)
class ClassScore:
    """A row of a per-class table.

    Attributes:
        count: what the value is about: labelled boxes, or labelled pixels.
        value: None where the class is not among the labels.
    """

    name: str
    count: int
    value: float | None


@dataclass(frozen=True)
class Agreement:
    """Agreement of two models' answers, per sample; each int64 `[n]`.

    Attributes:
        matched: answers of the candidate that are the reference's, too.
        reference, candidate: number of answers of each: 1 for a classifier, boxes for a detector.
    """

    matched: NDArray[np.int64]
    reference: NDArray[np.int64]
    candidate: NDArray[np.int64]

    @property
    def fractions(self) -> NDArray[np.float64]:
        """Share of both models' answers that have a match (Dice 1945), `[n]`; 1 where neither gives any."""
        answers = self.reference + self.candidate
        return np.where(answers > 0, 2 * self.matched / np.maximum(answers, 1), 1.0)

    @property
    def recall(self) -> float:
        """Share of the reference's answers that the candidate gives, over all samples; 1 if there are none."""
        return float(self.matched.sum() / self.reference.sum()) if self.reference.sum() else 1.0

    @property
    def precision(self) -> float:
        """Share of the candidate's answers that the reference gives, over all samples; 1 if there are none."""
        return float(self.matched.sum() / self.candidate.sum()) if self.candidate.sum() else 1.0

    @staticmethod
    def of_bits(equal: NDArray[np.bool_]) -> Agreement:
        """One answer per sample, equal or not, `[n]`."""
        ones = np.ones(len(equal), np.int64)
        return Agreement(equal.astype(np.int64), ones, ones)


class Evaluator(abc.ABC):
    """Sees each batch once and keeps per-sample statistics, so that any subset of samples can be scored.

    Attributes:
        metrics: what it can tell, the task's first metric first.
    """

    metrics: tuple[Metric, ...]

    @property
    @abc.abstractmethod
    def samples(self) -> int:
        """Number of samples seen."""

    @abc.abstractmethod
    def update(
        self,
        outputs: Arrays,
        targets: Sequence[Target],
        frames: Sequence[Frame | None],
        names: Sequence[str] = (),
    ) -> None:
        """Take in one batch.

        Args:
            outputs: of the model, axis 0 = sample.
            targets: what is right for each sample.
            frames: how each picture became the model's plane.
            names: of the samples, for messages.

        Raises:
            StageError: the outputs hold NaN.
            DataError: a target is of another kind or beyond the classes; names the sample.
        """

    @abc.abstractmethod
    def weighted(self, metric: str, weights: NDArray[np.int64]) -> NDArray[np.float64]:
        """The metric where sample `i` counts `weights[r, i]` times, `[r, n] -> [r]`; NaN where it is undefined."""

    def successes(self, metric: str) -> NDArray[np.bool_] | None:
        """Per sample, whether it counts as right, where the metric is the share of right samples; None otherwise."""
        del metric
        return None

    def table(self) -> tuple[ClassScore, ...]:
        """The first metric by class; empty where a task has no classes to tell apart."""
        return ()

    def value(self, metric: str, samples: NDArray[np.intp] | None = None) -> float:
        """The metric over all samples, or those at the positions `samples` `[k]`, each as often as it is named.

        NaN where it is undefined, for instance mAP without a labelled box, or anything of no samples.
        """
        if not self.samples or (samples is not None and not len(samples)):
            return float("nan")
        if samples is None:
            counts = np.ones(self.samples, np.int64)
        else:
            counts = np.bincount(samples, minlength=self.samples).astype(np.int64)
        return float(self.weighted(metric, counts[None])[0])

    def metric(self, name: str) -> Metric:
        """The metric of that name."""
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise ConfigError(f"no metric {name!r}", fix=nearest(name, [metric.name for metric in self.metrics]))


class Task(BaseModel, abc.ABC):
    """Meaning of the outputs of a model. Fields are options: typed, validated, documented where they are declared.

    Attributes:
        metrics: the first is what budgets, epochs and scans are judged by; empty where nothing is labelled.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)

    name: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]] = ()

    @abc.abstractmethod
    def check(self, signature: Signature, classes: Sequence[str]) -> None:
        """Hold the model's outputs against what the task can read, before any work.

        Raises:
            ConfigError: they do not fit; names the tensors, their shapes and the nearest options that would.
        """

    @abc.abstractmethod
    def evaluator(self, signature: Signature, classes: Sequence[str]) -> Evaluator:
        """Score outputs against labels, for a model that passed `check`."""

    @abc.abstractmethod
    def agreement(
        self,
        reference: Arrays,
        candidate: Arrays,
        frames: Sequence[Frame | None],
        signature: Signature,
        classes: Sequence[str],
    ) -> Agreement:
        """Hold the answers of one batch against another model's on the same samples; no labels needed."""

    def compared(self, signature: Signature) -> tuple[str, ...]:
        """Names of the outputs that may be compared number by number; each on its own, never as one figure."""
        return tuple(spec.name for spec in signature.outputs)


class NoFit(Exception):
    """A decoder cannot read a model's outputs; says what it reads."""


def shown(specs: Sequence[TensorSpec]) -> str:
    """Tensors for a message: `boxes [100, 4], scores [?]`."""
    return ", ".join(f"{spec.name} [{', '.join('?' if s is None else str(s) for s in spec.shape)}]" for spec in specs)


def plane_size(signature: Signature) -> tuple[int, int] | None:
    """Height and width of the first input that is a picture; None where there is none of a fixed size."""
    for spec in signature.inputs:
        if spec.layout == "CHW" or (not spec.layout and len(spec.shape) == 3):
            height, width = spec.shape[-2:]
            return None if height is None or width is None else (height, width)
    return None


def finite_output(outputs: Mapping[str, Array], name: str) -> Array:
    """The output of that name.

    Raises:
        StageError: the model does not give it, or it holds NaN.
    """
    if name not in outputs:
        raise StageError(f"the model gives no output {name!r}, only {', '.join(outputs) or 'nothing'}")
    values = outputs[name]
    if np.issubdtype(values.dtype, np.floating) and bool(np.isnan(values).any()):
        raise StageError(
            f"output {name!r} holds NaN", fix="look for the layer that overflows (FP16) or divides by zero"
        )
    return values


def sample_name(names: Sequence[str], position: int, seen: int) -> str:
    """The sample at `position` of a batch, for a message; by its number where it has no name."""
    return names[position] if position < len(names) else f"sample {seen + position}"
