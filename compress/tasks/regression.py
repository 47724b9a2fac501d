"""Numbers per sample: R², mean absolute error, root of the mean squared error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from compress.core.errors import ConfigError, DataError
from compress.core.io import Arrays, Frame, Signature, Target
from compress.tasks.base import Agreement, Evaluator, Metric, Task, finite_output, sample_name, shown

__all__ = ["MAE", "R2", "RMSE", "RegressionEvaluator", "RegressionTask"]

R2 = Metric("r2", "R²")
MAE = Metric("mae", "MAE", unit="", higher_is_better=False)
RMSE = Metric("rmse", "RMSE", unit="", higher_is_better=False)

_SEPARATE = 64
"""Up to so many values per sample each has a variance of its own; more are a field (a depth map) with one."""


class RegressionTask(Task):
    """An output of numbers of the shape that the labels have.

    R² comes first: a point of it is a hundredth of the labels' variance, whatever their unit.

    Attributes:
        output: name of the output that is read; None where the model has one.
        tolerance: two models agree on a value where they differ by at most this share of the reference's.
    """

    name: ClassVar[str] = "regression"
    metrics: ClassVar[tuple[Metric, ...]] = (R2, MAE, RMSE)

    output: str | None = None
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.05

    def check(self, signature: Signature, classes: Sequence[str]) -> None:
        """Hold the model to one output of numbers.

        Raises:
            ConfigError: it has several and `output` names none of them.
        """
        del classes
        self._values(signature)

    def evaluator(self, signature: Signature, classes: Sequence[str]) -> RegressionEvaluator:
        """Sum errors and their squares."""
        del classes
        return RegressionEvaluator(self._values(signature))

    def agreement(
        self,
        reference: Arrays,
        candidate: Arrays,
        frames: Sequence[Frame | None],
        signature: Signature,
        classes: Sequence[str],
    ) -> Agreement:
        """Values within `tolerance` of the reference's, per sample."""
        del frames, classes
        name = self._values(signature)
        exact, other = (_rows(finite_output(outputs, name)) for outputs in (reference, candidate))
        values = np.full(len(exact), exact.shape[1], np.int64)
        close = np.abs(other - exact) <= self.tolerance * np.abs(exact) + np.finfo(np.float32).eps
        return Agreement(close.sum(axis=1).astype(np.int64), values, values)

    def _values(self, signature: Signature) -> str:
        names = [spec.name for spec in signature.outputs]
        if self.output in names:
            return str(self.output)
        if self.output is None and len(names) == 1:
            return names[0]
        raise ConfigError(
            f"{self.name} reads one output; the model gives {shown(signature.outputs)}"
            + (f", and task.output is {self.output!r}" if self.output else ""),
            fix=f"task.output={' or '.join(names)}",
        )


class RegressionEvaluator(Evaluator):
    """Keeps for each sample sums over its values: |error|, error², label, label², `[n, 4, d]`.

    R² is the mean over the `d` values of a sample of 1 - squared error / variance (as scikit-learn's `r2_score`);
    values whose label never changes are left out.
    """

    metrics = (R2, MAE, RMSE)

    def __init__(self, output: str) -> None:
        self._output = output
        self._sums: list[NDArray[np.float64]] = []
        self._values = 0

    @property
    def samples(self) -> int:
        """Number of samples seen."""
        return sum(len(sums) for sums in self._sums)

    def update(
        self, outputs: Arrays, targets: Sequence[Target], frames: Sequence[Frame | None], names: Sequence[str] = ()
    ) -> None:
        """Take in values and labels of the same shape.

        Raises:
            StageError: a value is NaN.
            DataError: a label is no number, not finite, or has another number of values; names the sample.
        """
        del frames
        answers = _rows(finite_output(outputs, self._output))
        labels = np.stack(
            [
                _label(target, answers.shape[1], sample_name(names, position, self.samples))
                for position, target in enumerate(targets)
            ]
        )
        self._values = answers.shape[1]
        errors = answers - labels
        sums = np.stack([np.abs(errors), errors**2, labels, labels**2], axis=1)
        self._sums.append(sums if self._values <= _SEPARATE else sums.sum(axis=2, keepdims=True))

    def weighted(self, metric: str, weights: NDArray[np.int64]) -> NDArray[np.float64]:
        """R², MAE or RMSE, `[r, n] -> [r]`."""
        asked = self.metric(metric)
        sums = np.tensordot(weights.astype(np.float64), np.concatenate(self._sums), axes=1)  # [r, 4, d]
        absolute, squared, first, second = (sums[:, index] for index in range(4))
        counted = weights.sum(axis=1)
        values = (counted * self._values).astype(np.float64)
        if asked is MAE:
            means: NDArray[np.float64] = absolute.sum(axis=1) / values
            return means
        if asked is RMSE:
            roots: NDArray[np.float64] = np.sqrt(squared.sum(axis=1) / values)
            return roots
        spread = second - first**2 / (values / sums.shape[2])[:, None]
        varies = spread > 1e-12 * second  # what rounding leaves of labels that are all the same
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = np.where(varies, 1 - squared / spread, 0.0)
            determined: NDArray[np.float64] = shares.sum(axis=1) / varies.sum(axis=1)
        return determined


def _rows(values: NDArray[np.generic]) -> NDArray[np.float64]:
    return values.reshape(len(values), -1).astype(np.float64)


def _label(target: Target, values: int, name: str) -> NDArray[np.float64]:
    if isinstance(target, bool) or not isinstance(target, (int, float, np.number, np.ndarray)):
        raise DataError(
            f"{name} has no number but {type(target).__name__}", fix="use data with numbers, or another task"
        )
    label = np.asarray(target, np.float64).ravel()
    if len(label) != values:
        raise DataError(f"{name} has {len(label)} value(s), the model gives {values}")
    if not np.isfinite(label).all():
        raise DataError(f"{name} has a label that is NaN or infinite", fix="leave the sample out")
    return label
