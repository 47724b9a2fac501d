"""Resize and its forerunner Upsample: each axis on its own is a product with a matrix `[out, in]`.

The matrix is written down from ONNX's rules (nearest, linear and cubic kernels, where the samples lie, what lies beyond
the edge). Where one of torch's own interpolations has the same matrices it is used, as every runtime has a kernel for
it; elsewhere the elements are picked (nearest) or the matrices are multiplied with.
Rules: https://onnx.ai/onnx/operators/onnx__Resize.html
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import fx

from compress.formats.onnx.importer.builder import Builder, Handler, Operation, Value, numbers_of

__all__ = ["RESIZE"]

_TOLERANCE = 1e-5  # of a weight; float32 places samples of a few thousand elements to about 1e-4 of one
_Matrix = NDArray[np.float64]
_LARGEST_MATRIX = 1 << 26
"""Weights of all samples along an axis for all others: of 8,192 pixels for as many, half a GiB."""


@dataclass(frozen=True)
class _Axis:
    """One axis that changes: its sizes, and output elements for each input element."""

    axis: int
    size: int
    resized: int
    scale: float


@dataclass(frozen=True)
class _Kernel:
    """Placing and weighing of samples, in ONNX's words."""

    mode: str
    coordinates: str
    rounding: str
    cubic: float
    exclude_outside: bool
    antialias: bool


def _resize(builder: Builder, operation: Operation) -> Value:
    kernel = _Kernel(
        operation.get("mode", "nearest"),
        operation.get("coordinate_transformation_mode", "half_pixel" if operation.opset > 10 else "asymmetric"),
        operation.get("nearest_mode", "round_prefer_floor" if operation.opset > 10 else "floor"),
        operation.get("cubic_coeff_a", -0.75),
        bool(operation.get("exclude_outside", 0)),
        bool(operation.get("antialias", 0)),
    )
    operation.ignore("extrapolation_value")  # of tf_crop_and_resize alone
    if kernel.coordinates == "tf_crop_and_resize":
        raise operation.unsupported("with coordinate_transformation_mode tf_crop_and_resize")
    if operation.opset > 10:
        operation.ignore(1)  # the region of tf_crop_and_resize
        return _interpolated(builder, operation, _axes(builder, operation, 2, 3), kernel)
    return _interpolated(builder, operation, _axes(builder, operation, 1, None), kernel)


def _upsample(builder: Builder, operation: Operation) -> Value:
    """Resize as until opset 9: samples at `x / scale`, and nearest is the one before."""
    mode = operation.get("mode", "nearest")
    kernel = _Kernel("linear" if mode == "bilinear" else mode, "asymmetric", "floor", -0.75, False, False)
    return _interpolated(builder, operation, _axes(builder, operation, 1, None), kernel)


def _axes(builder: Builder, operation: Operation, scales_at: int, sizes_at: int | None) -> list[_Axis]:
    """The axes whose size changes or whose samples move."""
    rank = operation.known_rank()
    axes = [axis % rank for axis in operation.ints("axes") or range(rank)]
    scales, sizes = _scales(operation, scales_at), None if sizes_at is None else operation.operand(sizes_at)
    policy = operation.get("keep_aspect_ratio_policy", "stretch")
    if isinstance(sizes, torch.Tensor) and policy != "stretch":
        return _kept_in_proportion(operation, axes, numbers_of(sizes), policy)
    changed = []
    for index, axis in enumerate(axes):
        if scales is not None and len(scales):
            scale = float(scales[index])
            if scale == 1:
                continue
            size = operation.size(axis)
            changed.append(_Axis(axis, size, math.floor(size * scale), scale))
        else:
            resized = _resized(builder, operation, sizes, index, axis)
            if resized is None:
                continue
            size = operation.size(axis)
            if resized != size:
                changed.append(_Axis(axis, size, resized, resized / size))
    if any(axis.size * axis.resized > _LARGEST_MATRIX for axis in changed):
        raise operation.unsupported("of so many samples along one axis")
    return changed


def _scales(operation: Operation, index: int) -> list[float] | None:
    """Factors: an operand, or an attribute until opset 8."""
    if "scales" in operation.attributes:
        return list(operation.floats("scales"))
    stored = operation.constant(index)
    return None if stored is None else [float(scale) for scale in numbers_of(stored)]


def _resized(builder: Builder, operation: Operation, sizes: Value, index: int, axis: int) -> int | None:
    """The size an axis gets; None for a batch that stays as it is."""
    if isinstance(sizes, torch.Tensor):
        return int(sizes[index])
    known = builder.known_sizes(sizes) if isinstance(sizes, fx.Node) else None
    if known is None or (known[index] is None and axis > 0):
        raise operation.unsupported("to sizes that are not known before it runs")
    return known[index]


def _kept_in_proportion(operation: Operation, axes: list[int], sizes: list[int], policy: str) -> list[_Axis]:
    ratios = [size / operation.size(axis) for axis, size in zip(axes, sizes, strict=True)]
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    return [_Axis(axis, operation.size(axis), math.floor(operation.size(axis) * scale + 0.5), scale) for axis in axes]


def _interpolated(builder: Builder, operation: Operation, axes: list[_Axis], kernel: _Kernel) -> Value:
    if kernel.mode not in ("nearest", "linear", "cubic"):
        raise operation.unsupported(f"in mode {kernel.mode}")
    matrices = [_matrix(axis, kernel, operation) for axis in axes]
    own = _own_interpolation(operation, axes, kernel, matrices)
    if own is not None:
        mode, align, sizes, scales = own
        return builder.call(_interpolate, operation.data(), mode, align, sizes, scales)
    value: fx.Node | torch.Tensor = operation.data()
    for axis, matrix in zip(axes, matrices, strict=True):
        if kernel.mode == "nearest":
            value = builder.call(torch.index_select, value, axis.axis, torch.from_numpy(matrix.argmax(1)))
        else:
            value = builder.call(_along, value, torch.from_numpy(matrix).float(), axis.axis)
    return value


def _interpolate(
    data: torch.Tensor,
    mode: str,
    align: bool | None,
    sizes: tuple[int, ...] | None,
    scales: tuple[float, ...] | None,
) -> torch.Tensor:
    return F.interpolate(data, size=sizes, scale_factor=scales, mode=mode, align_corners=align)


def _along(data: torch.Tensor, matrix: torch.Tensor, axis: int) -> torch.Tensor:
    """`matrix [out, in]` times the elements along `axis`."""
    return torch.matmul(data.movedim(axis, -1), matrix.T.to(data.dtype)).movedim(-1, axis)


_Own = tuple[str, bool | None, tuple[int, ...] | None, tuple[float, ...] | None]
_NAMES = {("linear", 1): "linear", ("linear", 2): "bilinear", ("linear", 3): "trilinear", ("cubic", 2): "bicubic"}


def _own_interpolation(
    operation: Operation, axes: list[_Axis], kernel: _Kernel, matrices: list[_Matrix]
) -> _Own | None:
    """The arguments with which torch multiplies by the same matrices; None where there are none."""
    rank = operation.known_rank()
    spatial, changed = list(range(2, rank)), {axis.axis: axis for axis in axes}
    name = "nearest" if kernel.mode == "nearest" else _NAMES.get((kernel.mode, len(spatial)), "")
    if not name or not 1 <= len(spatial) <= 3 or not set(changed) <= set(spatial) or not changed:
        return None
    if any(axis.size < 1 or axis.resized < 1 for axis in axes):
        return None
    sizes = tuple(changed[axis].resized if axis in changed else operation.size(axis) for axis in spatial)
    scales = tuple(changed[axis].scale if axis in changed else 1.0 for axis in spatial)
    options: list[tuple[str, bool | None]] = [(name, False), (name, True)]
    if kernel.mode == "nearest":
        options = [("nearest", None), ("nearest-exact", None)]
    for mode, align in options:
        for target in ((sizes, None), (None, scales)):
            if all(_same(axis, matrix, mode, align, target) for axis, matrix in zip(axes, matrices, strict=True)):
                return (mode, align, *target)
    return None


def _same(
    axis: _Axis,
    matrix: _Matrix,
    mode: str,
    align: bool | None,
    target: tuple[tuple[int, ...] | None, tuple[float, ...] | None],
) -> bool:
    """Tell whether torch's matrix for this axis is `matrix`: what it makes of unit vectors."""
    sizes, scales = target
    units = torch.eye(axis.size)[:, None]  # [in, 1, in]
    one_dimension = {"bilinear": "linear", "trilinear": "linear"}.get(mode, mode)
    shape = units if one_dimension != "bicubic" else units[:, :, None]
    lead = () if one_dimension != "bicubic" else (1,)
    result = F.interpolate(
        shape,
        size=None if sizes is None else (*lead, axis.resized),
        scale_factor=None if scales is None else (*(1.0 for _ in lead), axis.scale),
        mode=one_dimension,
        align_corners=align,
    ).reshape(axis.size, -1)
    return result.shape[1] == axis.resized and np.allclose(result.T.numpy(), matrix, atol=_TOLERANCE)


def _matrix(axis: _Axis, kernel: _Kernel, operation: Operation) -> _Matrix:
    """Weights `[out, in]` of one axis."""
    positions = _places(axis, kernel, operation)
    matrix = np.zeros((axis.resized, axis.size))
    for row, position in enumerate(positions):
        for index, weight in _taps(position, axis, kernel, operation):
            matrix[row, min(max(index, 0), axis.size - 1)] += weight
    return matrix


def _places(axis: _Axis, kernel: _Kernel, operation: Operation) -> _Matrix:
    """Return where in the operand each output element samples, in float32 as ONNX Runtime computes it."""
    out = np.arange(axis.resized, dtype=np.float64)
    scale, last = axis.scale, axis.size - 1
    match kernel.coordinates:
        case "half_pixel":
            return (out + 0.5) / scale - 0.5
        case "half_pixel_symmetric":
            centre = axis.size / 2 * (1 - axis.resized / (scale * axis.size))
            return centre + (out + 0.5) / scale - 0.5
        case "pytorch_half_pixel":
            return (out + 0.5) / scale - 0.5 if axis.resized > 1 else np.zeros_like(out)
        case "align_corners":
            return out * last / (axis.resized - 1) if axis.resized > 1 else np.zeros_like(out)
        case "asymmetric":
            return out / scale
        case "tf_half_pixel_for_nn":
            return (out + 0.5) / scale
        case other:
            raise operation.unsupported(f"with coordinate_transformation_mode {other}")


def _taps(position: float, axis: _Axis, kernel: _Kernel, operation: Operation) -> list[tuple[int, float]]:
    """Elements and weights for one sample; indices may lie beyond the edge."""
    if kernel.mode == "nearest":
        return [(_rounded(float(np.float32(position)), kernel.rounding, operation), 1.0)]
    reach = 1 if kernel.mode == "linear" else 2
    shrink = min(axis.scale, 1.0) if kernel.antialias else 1.0  # the kernel grows where fewer elements come out
    low, high = math.floor(position - reach / shrink) + 1, math.ceil(position + reach / shrink)
    indices = list(range(low, high)) if high > low else [math.floor(position)]
    weights = np.array([_weight(abs(index - position) * shrink, kernel) for index in indices])
    if kernel.exclude_outside:
        weights = np.where([0 <= index < axis.size for index in indices], weights, 0.0)
    weights = weights / weights.sum()  # of one, but for what is left out or shrunk
    return list(zip(indices, weights.tolist(), strict=True))


def _weight(distance: float, kernel: _Kernel) -> float:
    """The linear kernel, or the cubic one (Keys 1981, eq. 4, with `a` for its -0.5)."""
    if kernel.mode == "linear":
        return max(1 - distance, 0.0)
    a, x = kernel.cubic, distance
    if x <= 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a if x < 2 else 0.0


def _rounded(position: float, rounding: str, operation: Operation) -> int:
    match rounding:
        case "round_prefer_floor":
            return math.ceil(position - 0.5)
        case "round_prefer_ceil":
            return math.floor(position + 0.5)
        case "floor":
            return math.floor(position)
        case "ceil":
            return math.ceil(position)
        case other:
            raise operation.unsupported(f"with nearest_mode {other}")


RESIZE: dict[str, Handler] = {"Resize": _resize, "Upsample": _upsample}
"""Handlers by ONNX name."""
