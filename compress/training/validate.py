"""Top-1 and loss on samples that are not trained on, by which the best epoch is chosen."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from compress.errors import DataError
from compress.stage import Batch
from compress.training.device import home_of
from compress.training.forward import logits_of, on_device, require_scores
from compress.training.mode import set_training

__all__ = ["Validation", "validate"]


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
    correct = samples = 0
    loss = 0.0
    with torch.no_grad():
        for batch in batches:
            images, labels = on_device(batch, device)
            logits = logits_of(module, images).float()
            require_scores(logits, batch.labels)
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            right = (logits.argmax(dim=1) == labels) & ~logits.isnan().any(dim=1)  # NaN has no largest score
            correct += int(right.sum())
            samples += len(labels)
    if samples == 0:
        raise DataError("there is no sample to validate on", fix="data.validation=<number of images>")
    return Validation(correct / samples, loss / samples, samples)
