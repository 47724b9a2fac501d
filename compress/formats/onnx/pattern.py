"""N:M patterns in the weights of an exported file, read off the file itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

__all__ = ["Pattern", "onnx_pattern"]


@dataclass(frozen=True)
class Pattern:
    """Number of convolutions and linear layers, and of those among them that follow the pattern."""

    following: int
    layers: int


def onnx_pattern(model: onnx.ModelProto, n: int, m: int) -> Pattern:
    """Count layers in which no `m` consecutive input channels hold more than `n` non-zero weights.

    Inputs are the second axis of a convolution's weight `[out, in, ...]`, and of a linear layer's the axis that the
    operator sums over. Integer weights are zero where they equal their zero point.

    Raises:
        NotMeasured: the graph holds operators whose weights cannot be told from other constants.
    """
    from compress.formats.onnx.weights import onnx_weights

    weights = list(onnx_weights(model))
    return Pattern(sum(_follows(w.values != w.zero_point, n, m) for w in weights), len(weights))


def _follows(used: NDArray[np.bool_], n: int, m: int) -> bool:
    """Along either axis of a matrix: exporters store linear layers as `[out, in]` or as `[in, out]`."""
    axes = (0, 1) if used.ndim == 2 else (1,)
    return any(_along(used, axis, n, m) for axis in axes if used.ndim > axis)


def _along(used: NDArray[np.bool_], axis: int, n: int, m: int) -> bool:
    if used.shape[axis] % m:
        return False
    inputs_last = np.moveaxis(used, axis, -1)
    return bool((inputs_last.reshape(*inputs_last.shape[:-1], -1, m).sum(-1) <= n).all())
