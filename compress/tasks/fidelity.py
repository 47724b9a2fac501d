"""No labels at all: only how close a model stays to the FP32 source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import ConfigError
from compress.core.io import Arrays, Frame, Signature, Target
from compress.tasks.base import Agreement, Evaluator, Task, finite_output
from compress.tasks.closeness import same_answers

__all__ = ["FidelityTask", "UnlabelledEvaluator"]

_CLOSE_DB = 20.0
"""Noise of a hundredth of the signal's energy: where classifiers begin to lose points (`budget.SQNR_FLOOR_DB`)."""


class FidelityTask(Task):
    """Any model and samples without labels: budgets and scans go by the signal-to-noise ratio of every output.

    Attributes:
        ignore: outputs that are not compared: what in-graph suppression sorted and padded, for instance.
    """

    name: ClassVar[str] = "fidelity"

    ignore: tuple[str, ...] = ()

    def check(self, signature: Signature, classes: Sequence[str]) -> None:
        """Hold the model to one output that is compared.

        Raises:
            ConfigError: `ignore` names an output that there is not, or all of them.
        """
        del classes
        names = [spec.name for spec in signature.outputs]
        unknown = [name for name in self.ignore if name not in names]
        if unknown or not self.compared(signature):
            raise ConfigError(
                f"task.ignore names {'no output of the model: ' + ', '.join(unknown) if unknown else 'every output'}",
                fix=f"choose some of {', '.join(names)}",
            )

    def evaluator(self, signature: Signature, classes: Sequence[str]) -> UnlabelledEvaluator:
        """Count samples, and look whether outputs are numbers."""
        del classes
        return UnlabelledEvaluator(self.compared(signature))

    def agreement(
        self,
        reference: Arrays,
        candidate: Arrays,
        frames: Sequence[Frame | None],
        signature: Signature,
        classes: Sequence[str],
    ) -> Agreement:
        """Outputs that say the same, per sample: rows of scores by arg-max, integers by equality, others by SQNR."""
        del frames, classes
        equal = [
            _close(finite_output(reference, name), finite_output(candidate, name)) for name in self.compared(signature)
        ]
        outputs = np.full(len(equal[0]), len(equal), np.int64)
        return Agreement(np.sum(equal, axis=0, dtype=np.int64), outputs, outputs)

    def compared(self, signature: Signature) -> tuple[str, ...]:
        """All outputs but the ignored ones."""
        return tuple(spec.name for spec in signature.outputs if spec.name not in self.ignore)


def _close(reference: NDArray[np.generic], candidate: NDArray[np.generic]) -> NDArray[np.bool_]:
    if reference.ndim == 2 or not np.issubdtype(reference.dtype, np.floating):
        answers = same_answers(reference, candidate)
        if answers is not None:
            return np.asarray(answers == 1)
    exact = reference.reshape(len(reference), -1).astype(np.float64)
    error = candidate.reshape(len(candidate), -1).astype(np.float64) - exact
    close: NDArray[np.bool_] = (error**2).sum(axis=1) <= (exact**2).sum(axis=1) * 10 ** (-_CLOSE_DB / 10)
    return close


class UnlabelledEvaluator(Evaluator):
    """Knows no metric; outputs are still held to be numbers."""

    metrics = ()

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._samples = 0

    @property
    def samples(self) -> int:
        """Number of samples seen."""
        return self._samples

    def update(
        self, outputs: Arrays, targets: Sequence[Target], frames: Sequence[Frame | None], names: Sequence[str] = ()
    ) -> None:
        """Count the samples of a batch.

        Raises:
            StageError: an output holds NaN.
        """
        del frames, names
        for name in self._names:
            finite_output(outputs, name)
        self._samples += len(targets)

    def weighted(self, metric: str, weights: NDArray[np.int64]) -> NDArray[np.float64]:
        """Refuse: nothing is labelled.

        Raises:
            ConfigError: always.
        """
        del weights
        raise ConfigError(f"fidelity has no metric {metric!r}", fix="use data with labels and the task they are for")
