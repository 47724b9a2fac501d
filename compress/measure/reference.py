"""Logits of a model on the evaluation split, kept on disk: of the FP32 source, and of INT8 graphs, which run slowly."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.core.artifact import Artifact
from compress.core.errors import DataError
from compress.core.stage import Progress, Split
from compress.formats.runner import Runner
from compress.formats.runtimes import load_for_answers
from compress.measure.accuracy import answers
from compress.measure.settings import MeasureConfig
from compress.support.files import atomic_path

__all__ = ["RecordedLogits"]


@dataclass(frozen=True)
class RecordedLogits:
    """Logits of a model, in the order of the split: a `.npy` file, float32 `[N, classes]`, never in memory whole."""

    path: Path

    @classmethod
    def compute(
        cls,
        artifact: Artifact,
        split: Split,
        path: Path,
        config: MeasureConfig,
        progress: Progress,
        description: str = "reference outputs",
    ) -> RecordedLogits:
        """Run `artifact` over `split` and write its logits to `path`; a whole file already there is taken as it is.

        `path` must name the artifact and the split by content, as it is trusted when it exists.

        Raises:
            DataError: the split is empty.
            StageError: the model gives something else than `[N, classes]`, or the disk is full.
        """
        if len(split) == 0:
            raise DataError(f"the {split.name} split is empty: there is nothing to measure on")
        if not path.exists():
            run = load_for_answers(artifact)
            _write(run, split, path, artifact.fitting(config.batch_size), progress, description)
        return cls(path)

    def open(self) -> NDArray[np.float32]:
        """The array mapped from disk, read-only."""
        mapped: NDArray[np.float32] = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return mapped

    def replay(self, name: str) -> Runner:
        """A runner that answers with these logits, for one pass over the split in order."""
        return _Replay(name, self.open())


class _Replay:
    """A runner that gives the rows of recorded logits, batch after batch."""

    def __init__(self, name: str, logits: NDArray[np.float32]) -> None:
        self.name = name
        self._logits = logits
        self._position = 0

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        start = self._position
        self._position += len(images)
        return np.array(self._logits[start : self._position])


def _write(run: Runner, split: Split, path: Path, batch_size: int, progress: Progress, description: str) -> None:
    pairs = answers(run, split, batch_size=batch_size, progress=progress, description=description)
    _, first = next(pairs)
    with atomic_path(path) as temporary:
        stored = np.lib.format.open_memmap(temporary, "w+", np.dtype(np.float32), (len(split), first.shape[1]))
        position = 0
        for logits in chain([first], (logits for _, logits in pairs)):
            stored[position : position + len(logits)] = logits
            position += len(logits)
        stored.flush()
