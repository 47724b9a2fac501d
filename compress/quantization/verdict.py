"""What quantization costs on a split, image by image against the float graph: the accuracy ladder decides by it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from compress.errors import DataError, StageError
from compress.parity import FidelityMeter
from compress.stage import Split

__all__ = ["Judge", "Limits", "Verdict"]

_Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution


@dataclass(frozen=True)
class Verdict:
    """A quantized graph against the float graph on the same samples.

    Attributes:
        samples: number of images.
        float_correct: images the float graph gets right.
        lost: of those, images the quantized graph gets wrong.
        gained: images that only the quantized graph gets right.
        agreement: share of images with the same arg-max.
        sqnr_db: of the logits; inf if equal.
    """

    samples: int
    float_correct: int
    lost: int
    gained: int
    agreement: float
    sqnr_db: float

    @property
    def change_points(self) -> float:
        """Change of top-1 in percentage points; negative is a loss."""
        return 100 * (self.gained - self.lost) / self.samples

    @property
    def interval_points(self) -> tuple[float, float]:
        """95 % interval of the change, for all images the split stands for.

        Wald's interval for paired proportions after adding 1/2 to each of the four counts (Agresti & Min 2005), which
        stays honest where no answer changed.
        """
        lost, gained, samples = self.lost + 0.5, self.gained + 0.5, self.samples + 2
        change = (gained - lost) / samples
        half = _Z95 * math.sqrt(lost + gained - (gained - lost) ** 2 / samples) / samples
        return 100 * max(-1.0, change - half), 100 * min(1.0, change + half)

    def within(self, drop_points: float) -> bool:
        """Whether no more than `drop_points` of top-1 are lost on these samples."""
        return 100 * (self.lost - self.gained) <= drop_points * self.samples + 1e-9

    def better_than(self, other: Verdict) -> bool:
        """More right answers, or as many with logits nearer to the float graph's."""
        return (self.gained - self.lost, self.sqnr_db) > (other.gained - other.lost, other.sqnr_db)


@dataclass(frozen=True)
class Limits:
    """What quantization may cost.

    Attributes:
        drop_points: of top-1, in percentage points.
        sqnr_db: that the logits must keep; None for any noise.
    """

    drop_points: float
    sqnr_db: float | None = None

    def met_by(self, verdict: Verdict) -> bool:
        return verdict.within(self.drop_points) and (self.sqnr_db is None or verdict.sqnr_db >= self.sqnr_db)

    def excess(self, verdict: Verdict) -> float:
        """How far a verdict is beyond the limits, in points or decibels, whichever is more; at most 0 within them."""
        points = -verdict.change_points - self.drop_points
        return points if self.sqnr_db is None else max(points, self.sqnr_db - verdict.sqnr_db)


class Judge:
    """Holds the float graph's logits on a split, float32 `[samples, classes]`, and judges by them.

    Raises:
        StageError: the split is empty.
        DataError: a label lies beyond the model's outputs.
        ParityError: the float graph gives NaN or infinity.
    """

    def __init__(self, graph: nn.Module, split: Split, batch_size: int) -> None:
        if not len(split):
            raise StageError(
                f"the {split.name} split is empty: nothing to hold the accuracy budget against",
                fix="data.validation=<number of images>",
            )
        self._split = split
        self._batch_size = batch_size
        self._reference = [(batch.labels, _logits(graph, batch.images)) for batch in split.batches(batch_size)]
        classes = self._reference[0][1].shape[1]
        largest = max(int(labels.max()) for labels, _ in self._reference)
        if largest >= classes:
            raise DataError(f"the {split.name} split has label {largest}, but the model gives {classes} classes")

    def __call__(self, graph: nn.Module) -> Verdict:
        """Run a quantized graph over the split, holding one batch at a time."""
        meter = FidelityMeter()
        samples = correct = lost = gained = 0
        for batch, (labels, exact) in zip(self._split.batches(self._batch_size), self._reference, strict=True):
            logits = _logits(graph, batch.images)
            meter.update(exact, logits)
            was_right, is_right = exact.argmax(axis=1) == labels, logits.argmax(axis=1) == labels
            samples += len(labels)
            correct += int(was_right.sum())
            lost += int((was_right & ~is_right).sum())
            gained += int((is_right & ~was_right).sum())
        fidelity = meter.result()
        return Verdict(samples, correct, lost, gained, fidelity.agreement, fidelity.sqnr_db)


def _logits(graph: nn.Module, images: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.no_grad():
        logits = graph(torch.from_numpy(images))
    assert isinstance(logits, torch.Tensor)
    values: NDArray[np.float32] = logits.float().numpy()
    return values
