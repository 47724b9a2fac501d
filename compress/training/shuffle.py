"""Batches in a new random order every epoch; the order follows from the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from compress.core.stage import Batch
from compress.training.augment import Augment, augmented
from compress.training.samples import Samples

__all__ = ["Shuffled"]

_ORDER, _AUGMENT = 0, 1  # streams of random numbers that must not follow one another


class Shuffled:
    """`shuffled(epoch)` yields every sample once, in random order; `len` is the number of batches.

    An incomplete last batch is left out when there is a full one: the BatchNorm statistics of a few samples are noise,
    and those of one sample do not exist. Each epoch leaves out others.
    """

    def __init__(self, samples: Samples, *, size: int, seed: int, augment: Augment | None = None) -> None:
        self._samples = samples
        self._size = size
        self._seed = seed
        self._augment = augment or Augment()

    def __len__(self) -> int:
        count = len(self._samples)
        return count // self._size if count >= self._size else min(1, count)

    def __call__(self, epoch: int) -> Iterator[Batch]:
        order = self._generator(epoch, _ORDER).permutation(len(self._samples))
        batches = self._samples.batches(self._size, order=order[: len(self) * self._size].tolist())
        return augmented(batches, self._augment, self._generator(epoch, _AUGMENT))

    def _generator(self, epoch: int, stream: int) -> np.random.Generator:
        """PCG64 takes non-negative seeds only, so negative ones are folded into their own stream."""
        return np.random.default_rng([abs(self._seed), int(self._seed < 0), epoch, stream])
