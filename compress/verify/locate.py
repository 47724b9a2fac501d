"""The first layer at which two forms of a network part, found by their intermediate values.

Names do not survive an export or a folding, values do: an activation of the reference is *met* where the other form has
an activation that equals it. What a rewrite takes apart or joins is not met itself but leads to something that is. The
first activation from which nothing that is met can be reached is where the two part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from compress.core.artifact import Precision
from compress.core.errors import CompressError
from compress.formats.base import Activation, NotMeasured
from compress.formats.registry import open_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from compress.core.artifact import Artifact

__all__ = ["first_difference"]

_EQUAL_DB = {Precision.FP32: 60.0, Precision.FP16: 30.0, Precision.INT8: 25.0}
"""Above what sums in another order leave in a deep network, below what a wrong layer does."""


def first_difference(before: Artifact, after: Artifact, image: NDArray[np.float32]) -> str | None:
    """Name of the first layer of `before` that `after` computes differently on `image` `[1, C, H, W]`; None where the
    inner values cannot be read or nothing stands out."""
    try:
        reference, candidate = open_file(before).activations(image), open_file(after).activations(image)
    except (NotMeasured, CompressError, RuntimeError, ValueError):
        return None
    met = [_is_met(one.values, candidate, _EQUAL_DB[before.precision]) for one in reference]
    for position in reversed(range(len(reference))):
        met[position] = met[position] or any(met[reader] for reader in reference[position].readers)
    return next((one.name for one, equal in zip(reference, met, strict=True) if not equal), None)


def _is_met(values: NDArray[np.float32] | None, candidates: Sequence[Activation], decibels: float) -> bool:
    """Tell whether some candidate equals `values`; what has no values, or only zeros, says nothing and counts as met
    by none."""
    if values is None or not values.any():
        return False
    flat = values.squeeze().astype(np.float64)
    allowed = float(np.sum(flat**2)) * 10 ** (-decibels / 10)
    for other in candidates:
        if other.values is None or other.values.size != values.size:
            continue
        for layout in (other.values, _channels_first(other.values)):
            if layout.squeeze().shape == flat.shape and float(np.sum((layout.squeeze() - flat) ** 2)) <= allowed:
                return True
    return False


def _channels_first(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.moveaxis(values, -1, 1) if values.ndim > 2 else values
