"""A split that is read many times: decoded once where it fits in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from compress.core.stage import Batch, Split

__all__ = ["CACHE_BYTES", "Samples"]

CACHE_BYTES = 1 << 30
"""Decoded images are kept up to this size: 87 000 CIFAR images, 1 700 of 224x224 pixels."""

_READ = 64  # samples decoded at a time while the cache is filled


class Samples:
    """The samples of a split in any order; beyond `cache_bytes` of decoded images they are decoded at every reading."""

    def __init__(self, split: Split, *, cache_bytes: int = CACHE_BYTES) -> None:
        self._split = split
        self._cache = _decoded(split, cache_bytes)

    def __len__(self) -> int:
        return len(self._split)

    @property
    def cached(self) -> bool:
        """Tell whether all samples are in memory."""
        return self._cache is not None

    def batches(self, size: int, *, order: Sequence[int] | None = None) -> Iterator[Batch]:
        """Samples at the positions `order` (all, in the split's own order, when None), at most `size` at a time."""
        if self._cache is None:
            yield from self._split.batches(size, order=order)
            return
        positions = np.arange(len(self)) if order is None else np.asarray(order, dtype=np.int64)
        for start in range(0, len(positions), size):
            chosen = positions[start : start + size]
            yield Batch(self._cache.images[chosen], self._cache.labels[chosen])


def _decoded(split: Split, cache_bytes: int) -> Batch | None:
    """All samples, or None when their images take more than `cache_bytes`; written once, into place."""
    first = next(iter(split.batches(1)), None)
    if first is None or first.images.nbytes * len(split) > cache_bytes:
        return None
    images = np.empty((len(split), *first.images.shape[1:]), dtype=np.float32)
    labels = np.empty(len(split), dtype=np.int64)
    position = 0
    for batch in split.batches(_READ):
        end = position + len(batch.labels)
        images[position:end], labels[position:end] = batch.images, batch.labels
        position = end
    return Batch(images, labels)
