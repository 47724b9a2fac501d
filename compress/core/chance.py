"""Test of whether a model's answers have anything to do with the labels, or are as right as chance would be."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.core.intervals import wilson_interval
from compress.core.measurement import Accuracy
from compress.core.quantities import Count, Share

__all__ = ["AtChance", "ChanceMeter", "at_chance"]

_LEVEL = 0.01
"""One model in a hundred that answers at random is taken for one that does not; a trained one never comes near."""


@dataclass(frozen=True)
class AtChance:
    """Accuracy that answers unrelated to the labels reach, too.

    Attributes:
        top1: share of right answers.
        chance: share expected of unrelated answers in the same proportions.
        samples: number of images.
        probability: that unrelated answers are right at least as often (binomial test, one-sided).
    """

    top1: Share
    chance: Share
    samples: Count
    probability: Share


class ChanceMeter:
    """Counts right answers, and answers and labels by class, batch by batch."""

    def __init__(self) -> None:
        self._correct = 0
        self._answers = np.zeros(0, np.int64)
        self._labels = np.zeros(0, np.int64)

    def update(self, logits: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        """Take in logits `[n, classes]` and labels `[n]` below `classes`; a row with NaN answers nothing."""
        classes = logits.shape[1]
        answered = ~np.isnan(logits).any(axis=1)
        self._correct += int(((logits.argmax(axis=1) == labels) & answered).sum())
        answers = np.bincount(logits.argmax(axis=1)[answered], minlength=classes)
        self._answers = answers if not self._answers.size else self._answers + answers
        counted = np.bincount(labels, minlength=classes)
        self._labels = counted if not self._labels.size else self._labels + counted

    @property
    def share(self) -> float:
        """Share of right answers to expect if they had nothing to do with the labels."""
        samples = int(self._labels.sum())
        return float(self._answers @ self._labels) / samples**2 if samples else 0.0

    def accuracy(self) -> Accuracy:
        """Top-1 of what was taken in, which must not be nothing."""
        samples = int(self._labels.sum())
        return Accuracy(self._correct / samples, *wilson_interval(self._correct, samples), samples, self.share)


def at_chance(accuracy: Accuracy) -> AtChance | None:
    """Evidence that the labels do not fit the model; None where they do, or where the images are too few to tell."""
    if accuracy.chance is None:
        return None
    correct = round(accuracy.top1 * accuracy.samples)
    if binomial_tail(accuracy.samples, accuracy.samples, accuracy.chance) > _LEVEL:  # even all right would not show
        return None
    probability = binomial_tail(correct, accuracy.samples, accuracy.chance)
    if probability <= _LEVEL:
        return None
    return AtChance(accuracy.top1, accuracy.chance, accuracy.samples, probability)


def binomial_tail(successes: int, samples: int, share: float) -> float:
    """Probability of at least `successes` in `samples` independent tries that succeed with probability `share`."""
    if successes <= 0:
        return 1.0
    if share <= 0.0:
        return 0.0
    if share >= 1.0:
        return 1.0
    log_share, log_rest = math.log(share), math.log1p(-share)
    whole = math.lgamma(samples + 1)
    terms = (
        whole
        - math.lgamma(count + 1)
        - math.lgamma(samples - count + 1)
        + count * log_share
        + (samples - count) * log_rest
        for count in range(successes, samples + 1)
    )
    return min(1.0, math.fsum(math.exp(term) for term in terms))
