"""Embeddings: how often one of a sample's nearest neighbours is of its class (recall@k)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from compress.core.errors import ConfigError
from compress.core.io import Array, Arrays, Frame, Signature, Target
from compress.tasks.base import Agreement, Evaluator, Metric, Task, finite_output, shown
from compress.tasks.classification import label_array

__all__ = ["RECALL1", "RECALL5", "RetrievalEvaluator", "RetrievalTask"]

RECALL1 = Metric("recall1", "recall@1")
RECALL5 = Metric("recall5", "recall@5")

_NEIGHBOURS = {RECALL1.name: 1, RECALL5.name: 5}
_BLOCK = 256  # queries at a time: their similarities to 50,000 samples take 100 MB

_NEVER = np.iinfo(np.int64).max  # rank of a neighbour that there is not

Similarity = Literal["cosine", "euclidean"]


class RetrievalTask(Task):
    """One vector per sample; near vectors are of one class (faces, products, places).

    Attributes:
        output: name of the output with the vector; None where the model has one.
        similarity: by which neighbours are near.
        tolerance: two models agree on a sample where the cosine of their vectors is at least 1 - this.
    """

    name: ClassVar[str] = "retrieval"
    metrics: ClassVar[tuple[Metric, ...]] = (RECALL1, RECALL5)

    output: str | None = None
    similarity: Similarity = "cosine"
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.01

    def check(self, signature: Signature, classes: Sequence[str]) -> None:
        """Hold the model to one vector per sample.

        Raises:
            ConfigError: it has none, or several and `output` names none of them.
        """
        del classes
        self._vector(signature)

    def evaluator(self, signature: Signature, classes: Sequence[str]) -> RetrievalEvaluator:
        """Keep embeddings, and search them when asked."""
        return RetrievalEvaluator(self._vector(signature), len(classes), self.similarity)

    def agreement(
        self,
        reference: Arrays,
        candidate: Arrays,
        frames: Sequence[Frame | None],
        signature: Signature,
        classes: Sequence[str],
    ) -> Agreement:
        """Tell whether the two vectors point the same way, per sample."""
        del frames, classes
        name = self._vector(signature)
        exact, other = (_unit(finite_output(outputs, name)) for outputs in (reference, candidate))
        return Agreement.of_bits((exact * other).sum(axis=1) >= 1 - self.tolerance)

    def _vector(self, signature: Signature) -> str:
        fitting = [spec.name for spec in signature.outputs if spec.shape and all(size == 1 for size in spec.shape[1:])]
        chosen = [name for name in fitting if self.output in (None, name)]
        if len(chosen) == 1:
            return chosen[0]
        raise ConfigError(
            f"{self.name} reads one vector [N, size]; the model gives {shown(signature.outputs)}"
            + (f", and task.output is {self.output!r}" if self.output else ""),
            fix=f"task.output={' or '.join(fitting)}" if fitting else "task=fidelity, which takes any output",
        )


class RetrievalEvaluator(Evaluator):
    """Keeps the embeddings; every sample asks all others, and one right among its `k` nearest counts.

    A sample alone in its class can only be wrong, as in any gallery that lacks it. Resampling repeats queries and
    leaves the gallery whole: a repeated gallery would answer itself.
    """

    metrics = (RECALL1, RECALL5)

    def __init__(self, output: str, classes: int, similarity: Similarity = "cosine") -> None:
        self._output = output
        self._classes = classes
        self._similarity = similarity
        self._embeddings: list[NDArray[np.float32]] = []
        self._labels: list[NDArray[np.int64]] = []
        self._ranks: NDArray[np.int64] | None = None

    @property
    def samples(self) -> int:
        """Number of samples seen."""
        return sum(len(labels) for labels in self._labels)

    def update(
        self, outputs: Arrays, targets: Sequence[Target], frames: Sequence[Frame | None], names: Sequence[str] = ()
    ) -> None:
        """Take in embeddings `[n, size]` and labels from 0.

        Raises:
            StageError: an embedding holds NaN.
            DataError: a label is no class of the data's; names the sample.
        """
        del frames
        vectors = finite_output(outputs, self._output)
        self._labels.append(label_array(targets, self._classes, names, self.samples))
        rows = vectors.reshape(len(vectors), -1).astype(np.float32)
        self._embeddings.append(_unit(rows) if self._similarity == "cosine" else rows)
        self._ranks = None

    def weighted(self, metric: str, weights: NDArray[np.int64]) -> NDArray[np.float64]:
        """Share of queries with a right neighbour, `[r, n] -> [r]`."""
        shares: NDArray[np.float64] = (weights @ self.successes(metric)) / weights.sum(axis=1)
        return shares

    def successes(self, metric: str) -> NDArray[np.bool_]:
        """Per sample, whether one of its `k` nearest others is of its class."""
        if self._ranks is None:
            self._ranks = _first_right(np.concatenate(self._embeddings), np.concatenate(self._labels))
        return self._ranks < _NEIGHBOURS[self.metric(metric).name]


def _first_right(embeddings: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of others of another class that are at least as near as the nearest of the own class, `[n]`."""
    squares = (embeddings**2).sum(axis=1)
    ranks = np.empty(len(labels), np.int64)
    for start in range(0, len(labels), _BLOCK):
        queries = slice(start, start + _BLOCK)
        distance = squares[None] - 2 * embeddings[queries] @ embeddings.T  # the query's own square moves no order
        distance[np.arange(len(distance)), np.arange(start, start + len(distance))] = np.inf
        own = labels[queries, None] == labels[None]
        nearest = np.where(own, distance, np.inf).min(axis=1, keepdims=True)
        ranks[queries] = np.where(np.isinf(nearest[:, 0]), _NEVER, (~own & (distance <= nearest)).sum(axis=1))
    return ranks


def _unit(vectors: Array) -> NDArray[np.float32]:
    rows = vectors.reshape(len(vectors), -1).astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float32] = rows / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit
