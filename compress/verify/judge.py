"""Judging models against the source on validation images, for the budget of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from compress.core.artifact import Artifact, Format
from compress.core.budget import Budget, Verdict
from compress.core.chance import ChanceMeter, at_chance
from compress.core.errors import DataError
from compress.formats.parity import FidelityMeter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from compress.core.stage import Batch, Split, Splits
    from compress.formats.runner import Runner

    _Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]

__all__ = ["Judge"]

_BATCH = 64


@dataclass(frozen=True)
class _Reference:
    """The source's logits, float32 `[n, classes]` a batch, and what the labels are worth."""

    batch_size: int
    logits: tuple[NDArray[np.float32], ...]
    unjudged: str | None


class Judge:
    """Compares models with the source on the first validation images, in batches; the source runs once, when needed.

    Without validation images, calibration images show how close the logits are, and top-1 is not judged.

    Attributes:
        budget: what the run may cost.
    """

    def __init__(self, source: Artifact, splits: Splits, budget: Budget) -> None:
        self.budget = budget
        self._source = source
        self._splits = splits

    @cached_property
    def unjudged(self) -> str | None:
        """Reason why the labels cannot tell what was lost; None if they can.

        Raises:
            DataError: a label lies beyond the model's outputs.
            ParityError: the source gives NaN or infinity.
        """
        return self._reference.unjudged

    def __call__(self, model: Artifact, *, images: int | None = None, run: _Run | None = None) -> Verdict:
        """Run a model over the images, holding one batch at a time.

        Args:
            images: how many of them; all by default.
            run: executes it; by default its own runtime on all cores.

        Raises:
            ParityError: it gives NaN or infinity, or other outputs than the source.
            StageError: its runtime refuses it.
        """
        reference, meter = self._reference, FidelityMeter()
        run = run or _runner(model)
        samples = correct = lost = gained = 0
        for batch, answers in zip(self._batches(reference.batch_size, images), reference.logits, strict=images is None):
            exact, logits = answers[: len(batch.images)], _in_batches(run, batch.images, _batch_size(model))
            meter.update(exact, logits)
            was_right, is_right = exact.argmax(axis=1) == batch.labels, logits.argmax(axis=1) == batch.labels
            samples += len(batch.labels)
            correct += int(was_right.sum())
            lost += int((was_right & ~is_right).sum())
            gained += int((is_right & ~was_right).sum())
        fidelity = meter.result()
        labelled = reference.unjudged is None
        return Verdict(samples, correct, lost, gained, fidelity.agreement, fidelity.sqnr_db, labelled)

    @cached_property
    def _reference(self) -> _Reference:
        run, size = _runner(self._source), _batch_size(self._source)
        batches = [(batch.labels, run(batch.images)) for batch in self._batches(size)]
        labels = np.concatenate([labels for labels, _ in batches])
        logits = tuple(answers for _, answers in batches)
        if not len(self._splits.validation):
            return _Reference(size, logits, "the validation split is empty (data.validation=<number of images>)")
        _require_answers(self._split, labels, logits[0].shape[1])
        return _Reference(size, logits, _doubt(batches))

    @property
    def _split(self) -> Split:
        return self._splits.validation if len(self._splits.validation) else self._splits.calibration

    def _batches(self, size: int, images: int | None = None) -> Iterator[Batch]:
        count = min(len(self._split), images or self.budget.images, self.budget.images)
        return self._split.batches(size, order=range(count))


def _doubt(batches: Sequence[tuple[NDArray[np.int64], NDArray[np.float32]]]) -> str | None:
    """Reason why labels `[n]` say nothing of a model that gives these logits `[n, classes]`; None if they do."""
    samples = sum(len(labels) for labels, _ in batches)
    if len(np.unique(np.concatenate([labels for labels, _ in batches]))) < 2:
        return f"all {samples} validation images have the same label"
    meter = ChanceMeter()
    for labels, logits in batches:
        meter.update(logits, labels)
    accuracy = meter.accuracy()
    if at_chance(accuracy) is None:
        return None
    classes = batches[0][1].shape[1]
    return (
        f"the source is right on {round(accuracy.top1 * samples)} of {samples} validation images, which is chance "
        f"among {classes} classes: labels do not fit this model?"
    )


def _require_answers(split: Split, labels: NDArray[np.int64], classes: int) -> None:
    if labels.max() >= classes:
        raise DataError(f"the {split.name} split has label {labels.max()}, but the model gives {classes} classes")


def _batch_size(model: Artifact) -> int:
    """1 for a model that takes single images."""
    if model.format is Format.TORCH:
        from torch import fx

        from compress.graph.capture import static_batch_reason

        if isinstance(model.module, fx.GraphModule) and static_batch_reason(model.module) is not None:
            return 1
    return model.fitting(_BATCH) if model.dynamic_batch else 1


def _in_batches(run: _Run, images: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    if len(images) <= size:
        return run(images)
    return np.concatenate([run(images[start : start + size]) for start in range(0, len(images), size)])


def _runner(model: Artifact) -> Runner:
    from compress.formats.runtimes import load_for_answers

    return load_for_answers(model)
