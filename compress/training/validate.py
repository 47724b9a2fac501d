"""Top-1 and loss on samples that are not trained on, by which the best epoch is chosen; of the source, too, which every
result is told beside: what a stage was given has often lost something already."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from compress.core.errors import DataError
from compress.core.stage import Batch
from compress.training.device import home_of
from compress.training.forward import logits_of, on_device, require_scores
from compress.training.mode import set_training

if TYPE_CHECKING:
    from compress.core.artifact import Artifact

__all__ = ["Validation", "beside_source", "validate", "validate_source"]


@dataclass(frozen=True)
class Validation:
    """Share of right answers, mean cross-entropy, and the number of samples."""

    top1: float
    loss: float
    samples: int

    def better_than(self, other: Validation) -> bool:
        """More right answers, or as many at a lower loss: small splits give many ties."""
        return self._rank() > other._rank()

    def _rank(self) -> tuple[float, float]:
        return self.top1, -self.loss if math.isfinite(self.loss) else -math.inf


def validate(module: nn.Module, batches: Iterable[Batch]) -> Validation:
    """Run the module in inference mode, in FP32, where it is, and leave it in that mode.

    Raises:
        DataError: there is no sample.
    """
    set_training(module, False)
    device = home_of(module)

    def answers() -> Iterator[tuple[torch.Tensor, Batch]]:
        for batch in batches:
            yield logits_of(module, on_device(batch, device)[0]), batch

    with torch.no_grad():
        return _counted(answers())


def validate_source(source: Artifact | None, batches: Iterable[Batch]) -> Validation | None:
    """Run the model as loaded, whatever its format, in its own runtime; None where there is none.

    Raises:
        DataError: there is no sample.
    """
    if source is None:
        return None
    from compress.formats import runtimes

    run = runtimes.load(source, threads=os.cpu_count() or 1)

    def answers() -> Iterator[tuple[torch.Tensor, Batch]]:
        for batch in batches:
            size = len(batch.labels) if source.dynamic_batch else 1
            parts = [run(batch.images[start : start + size]) for start in range(0, len(batch.labels), size)]
            yield torch.cat([torch.from_numpy(part) for part in parts]), batch

    return _counted(answers())


def beside_source(source: Validation | None) -> str:
    """`, the source 92.8%`, for a line that tells another result on the same samples; empty where there is none."""
    return "" if source is None else f", the source {source.top1:.2%}"


def _counted(answers: Iterable[tuple[torch.Tensor, Batch]]) -> Validation:
    """Validation result of scores `[n, classes]` for each batch."""
    correct = samples = 0
    loss = 0.0
    for scores, batch in answers:
        logits, labels = scores.float(), torch.from_numpy(batch.labels).to(scores.device)
        require_scores(logits, batch.labels)
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        right = (logits.argmax(dim=1) == labels) & ~logits.isnan().any(dim=1)  # NaN has no largest score
        correct += int(right.sum())
        samples += len(labels)
    if samples == 0:
        raise DataError("there is no sample to validate on", fix="data.validation=<number of images>")
    return Validation(correct / samples, loss / samples, samples)
