"""Doubles for what a stage is given besides a model: a progress that remembers, a split of arrays, a grey image; and
what happens to one: a training that is killed."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from compress.config.schema import load_target
from compress.core.artifact import InputSpec
from compress.core.stage import Batch, Context
from compress.measure.host import describe_host, int8_trusted

GRAY = InputSpec((1, 8, 8), "gray", (0.5,), (0.5,))
"""The images of the handwritten digits, at their own size."""

ROOT = Path(__file__).resolve().parents[1]
"""The checkout."""

SATURATES = not int8_trusted(describe_host(), reduce_range=False)
"""Whether this processor sums products of bytes in 16 bits, so that only weights of 7 bits are exact."""


not_here = pytest.mark.skipif(SATURATES, reason="8-bit products saturate on this processor: it shows no VNNI or AMX")
"""For figures of weights in 8 bits, computed here."""


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


def stage_context(
    name="stage",
    *,
    target="raspberry_pi_4",
    splits=None,
    calibration=None,
    folder=None,
    seed=0,
    log=None,
    source=None,
    judge=None,
):
    """What a stage is run in.

    Args:
        target: a profile or the name of one.
        calibration: the only split there is, instead of `splits`.
    """
    board = load_target(target, []) if isinstance(target, str) else target
    given = SimpleNamespace(calibration=calibration) if splits is None else splits
    return Context(name, board, given, Path() if folder is None else folder, seed, log or Log(), source, judge)


@contextmanager
def killed_after(epochs):
    """The training inside is interrupted once it has written its checkpoint of so many epochs."""
    from compress.training import loop

    real, written = loop.write_checkpoint, []

    def write(path, checkpoint):
        real(path, checkpoint)
        written.append(path)
        if len(written) == epochs:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "write_checkpoint", write)
        with pytest.raises(KeyboardInterrupt):
            yield
