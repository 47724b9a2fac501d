"""Cubic Resize as two matrix products: interpolation along an axis is linear in the values, with fixed weights.

`y = rows @ x @ columns^T`, exact for any size, scale and coordinate mode (ONNX operator Resize; R. Keys, "Cubic
convolution interpolation for digital image processing", 1981). Where the operator takes 4 products per output and axis,
this takes as many as the input is long.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compress.formats.onnx.building import NoOlderForm, attribute_int, constant, operator
from compress.formats.onnx.parsers.rules import constant_array

__all__ = ["cubic_as_products", "cubic_weights"]

_TAPS = 4


def cubic_as_products(node: ir.Node) -> ir.Value:
    """The form of a Resize in mode cubic; raises `NoOlderForm` for another mode or sizes that are not known."""
    mode = node.attributes.get_string("mode", "nearest")
    if mode != "cubic":
        raise NoOlderForm("only mode cubic has another form")
    if attribute_int(node, "antialias"):
        raise NoOlderForm("antialias=1")
    x, dtype = node.inputs[0], node.inputs[0].dtype if node.inputs[0] is not None else None
    before, after = _sizes(node.inputs[0]), _sizes(node.outputs[0])
    if dtype is None or len(before) < 2 or before[:-2] != after[:-2]:
        raise NoOlderForm("mode cubic on more than the last two dimensions")
    scales = constant_array(node, 2)
    axis_scales = [float(scale) for scale in scales] if scales is not None and scales.size else [None] * len(before)
    matrices = [_weights(node, before[axis], after[axis], axis_scales[axis]).astype(dtype.numpy()) for axis in (-2, -1)]
    rows = constant(node, matrices[0], "rows")
    columns = constant(node, np.ascontiguousarray(matrices[1].T), "columns")
    return operator("MatMul", operator("MatMul", rows, x, dtype=dtype), columns)


def cubic_weights(
    before: int,
    after: int,
    *,
    scale: float | None = None,
    mode: str = "half_pixel",
    a: float = -0.75,
    exclude_outside: bool = False,
) -> NDArray[np.float64]:
    """Interpolation along one axis as a matrix `[after, before]`; rows sum to 1.

    Args:
        scale: as given to the operator; None: `after / before`, as it follows from given sizes.
        mode: `coordinate_transformation_mode`.
        a: `cubic_coeff_a`.
        exclude_outside: weights beyond the edge become 0 and the others are scaled up; else the edge is repeated.

    Raises:
        NoOlderForm: another coordinate mode.
    """
    ratio = scale if scale is not None else after / before
    matrix = np.zeros((after, before))
    for index in range(after):
        position = _position(index, before, after, ratio, mode)
        first = math.floor(position) - 1
        taps = np.arange(first, first + _TAPS)
        weights = _kernel(np.abs(position - taps), a)
        if exclude_outside:
            weights = np.where((taps < 0) | (taps >= before), 0.0, weights)
            weights = weights / weights.sum()
        np.add.at(matrix[index], np.clip(taps, 0, before - 1), weights)
    return matrix


def _weights(node: ir.Node, before: int, after: int, scale: float | None) -> NDArray[np.float64]:
    a = node.attributes.get_float("cubic_coeff_a", -0.75)
    return cubic_weights(
        before,
        after,
        scale=scale,
        mode=node.attributes.get_string("coordinate_transformation_mode", "half_pixel") or "half_pixel",
        a=-0.75 if a is None else a,
        exclude_outside=bool(attribute_int(node, "exclude_outside")),
    )


def _position(index: int, before: int, after: int, scale: float, mode: str) -> float:
    """Return where the output's sample `index` lies among the input's (ONNX Resize, coordinate_transformation_mode)."""
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and after > 1):
        return (index + 0.5) / scale - 0.5
    if mode == "pytorch_half_pixel":
        return 0.0
    if mode == "align_corners":
        return index * (before - 1) / (after - 1) if after > 1 else 0.0
    if mode == "asymmetric":
        return index / scale
    raise NoOlderForm(f"mode cubic with coordinate mode {mode}")


def _kernel(distance: NDArray[np.float64], a: float) -> NDArray[np.float64]:
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def _sizes(value: ir.Value | None) -> list[int]:
    """Sizes of the last two dimensions and, as far as they are known, of those before."""
    shape = value.shape if value is not None else None
    if shape is None:
        raise NoOlderForm("mode cubic of an input whose size is not known")
    sizes = [size if isinstance(size, int) else -1 for size in shape]
    if -1 in sizes[-2:]:
        raise NoOlderForm("mode cubic of an input whose size is not known")
    return sizes
