"""Top-1 accuracy and closeness to the FP32 source, in one pass over the evaluation split and in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.core.chance import ChanceMeter
from compress.core.errors import DataError, StageError
from compress.core.measurement import Accuracy, Fidelity
from compress.core.stage import Batch, Progress, Split
from compress.formats.parity import FidelityMeter
from compress.formats.runner import Runner
from compress.measure.unmeasured import NotMeasured

__all__ = ["Evaluation", "answers", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """Result of one pass. `fidelity` is None when there was no reference."""

    accuracy: Accuracy
    fidelity: Fidelity | None


def evaluate(
    run: Runner,
    split: Split,
    reference: NDArray[np.float32] | None,
    *,
    batch_size: int,
    progress: Progress,
    description: str,
) -> Evaluation:
    """Count correct answers and compare logits with the reference's, holding one batch at a time.

    Args:
        reference: the source's logits on `split`, float32 `[N, classes]`; may be mapped from disk.

    Raises:
        NotMeasured: the split is empty.
        DataError: a label lies beyond the model's outputs.
        StageError: the model's output is not `[N, classes]`, or the reference is of another split or model.
    """
    if len(split) == 0:
        raise NotMeasured(f"the {split.name} split is empty")
    if reference is not None and len(reference) != len(split):
        raise StageError(f"the reference has logits of {len(reference)} samples, the {split.name} split {len(split)}")
    meter = FidelityMeter()
    position = 0
    right = ChanceMeter()
    for batch, logits in answers(run, split, batch_size=batch_size, progress=progress, description=description):
        _require_classes(logits, batch.labels, split.name)
        right.update(logits, batch.labels)
        if reference is not None:
            meter.update(_reference_rows(reference, position, logits), logits)
        position += len(logits)
    return Evaluation(right.accuracy(), None if reference is None else meter.result())


def answers(
    run: Runner, split: Split, *, batch_size: int, progress: Progress, description: str
) -> Iterator[tuple[Batch, NDArray[np.float32]]]:
    """Each batch of `split` with the model's logits, float32 `[n, classes]`.

    Raises:
        StageError: the model's output is not one row of scores per image.
    """
    total = math.ceil(len(split) / batch_size)
    for batch in progress.track(split.batches(batch_size), description, total):
        logits = run(batch.images)
        if logits.ndim != 2 or len(logits) != len(batch.images):
            raise StageError(
                f"the model gives an output of shape {list(logits.shape)} for {len(batch.images)} images",
                fix="use a classifier that gives one row of class scores [N, classes] for each image",
            )
        yield batch, logits


def _require_classes(logits: NDArray[np.float32], labels: NDArray[np.int64], split: str) -> None:
    if labels.max() >= logits.shape[1]:
        raise DataError(
            f"the {split} split has label {labels.max()}, but the model gives {logits.shape[1]} classes (0 to "
            f"{logits.shape[1] - 1})",
            fix="use a model trained for this data set",
        )


def _reference_rows(reference: NDArray[np.float32], start: int, logits: NDArray[np.float32]) -> NDArray[np.float32]:
    rows = np.asarray(reference[start : start + len(logits)])
    if rows.shape != logits.shape:
        raise StageError(f"the reference has logits of shape {list(rows.shape)}, the model gives {list(logits.shape)}")
    return rows
