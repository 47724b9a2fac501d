"""Doubles for what a stage is given besides a model: a progress that remembers, a split of arrays, a grey image."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

from compress.stage import Batch
from compress.types import InputSpec

GRAY = InputSpec((1, 8, 8), "gray", (0.5,), (0.5,))
"""The images of the handwritten digits, at their own size."""


class Log:
    """A `Progress` that keeps what was logged in `lines`, and in `tracked` what was shown as a bar."""

    def __init__(self):
        self.lines = []
        self.tracked = []

    def track(self, items, description, total=None):
        self.tracked.append((description, total))
        yield from items

    def log(self, message):
        self.lines.append(message)


@dataclass
class ArraySplit:
    """A `Split` in memory that remembers how it was read: `decoded` has the samples, `sizes` those of the batches."""

    images: np.ndarray
    labels: np.ndarray | None = None
    name: str = "calibration"
    decoded: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def __post_init__(self):
        if self.labels is None:
            self.labels = np.zeros(len(self.images), np.int64)

    def __len__(self):
        return len(self.images)

    def batches(self, size, *, order=None):
        positions = list(range(len(self))) if order is None else list(order)
        for start in range(0, len(positions), size):
            chosen = positions[start : start + size]
            self.decoded += chosen
            self.sizes.append(len(chosen))
            yield Batch(self.images[chosen], self.labels[chosen])

    def digest(self):
        return hashlib.sha256(self.images.tobytes() + self.labels.tobytes()).hexdigest()


def noise(count, shape, *, seed=0, name="calibration"):
    """A split of `count` images of normal noise, all labelled 0."""
    return ArraySplit(np.random.default_rng(seed).standard_normal((count, *shape), dtype=np.float32), name=name)
