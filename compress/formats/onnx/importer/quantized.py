"""QuantizeLinear and DequantizeLinear: their numbers survive the import, so that the next exporter writes them again.

Activations become `quantized_decomposed` operators. A stored integer weight becomes a float weight that remembers its
grid, and the layer that reads it quantizes and dequantizes it in its forward pass: the float values are the integers
times the scale, so this gives back the very same ones.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.ao.quantization.fx._decomposed  # registers the Q/DQ operators
from torch import fx, nn
from torch.nn.utils import parametrize

from compress.formats.onnx.importer.builder import Builder, Operation, Value, WeightGrid

__all__ = ["QUANTIZED", "keep_grid"]

_ops = torch.ops.quantized_decomposed
_UINT8_ZERO = 128  # the int8 code of a uint8 one is this much lower, at the same scale
_INT8 = (-128, 127, torch.int8)
_WEIGHT = (-127, 127, torch.int8)


class _OnGrid(nn.Module):
    """A weight rounded to its integers: no change to values that lie on the grid."""

    def __init__(self, grid: WeightGrid) -> None:
        super().__init__()
        self.axis = grid.axis
        self.register_buffer("scale", grid.scale)
        self.register_buffer("zero_point", torch.zeros(grid.scale.shape, dtype=torch.int64))
        self._number = float(grid.scale.reshape(-1)[0])

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        if self.axis is None:
            numbers = (self._number, 0, *_WEIGHT)
            restored: torch.Tensor = _ops.dequantize_per_tensor(_ops.quantize_per_tensor(weight, *numbers), *numbers)
        else:
            grid = (self.scale, self.zero_point, self.axis, *_WEIGHT)
            restored = _ops.dequantize_per_channel(_ops.quantize_per_channel(weight, *grid), *grid)
        return restored


def keep_grid(layer: nn.Module, grid: WeightGrid | None, *, axis: int = 0) -> nn.Module:
    """Let `layer` round its weight to `grid`, whose channels lie along `axis` of the layer's weight now."""
    if grid is not None:
        parametrize.register_parametrization(layer, "weight", _OnGrid(grid.along(axis)), unsafe=True)
    return layer


def _quantize(builder: Builder, operation: Operation) -> Value:
    scale, zero_point = _numbers(operation)
    operation.ignore("axis", "saturate", "precision")  # of one scale there is no axis; the others are for 8-bit floats
    _one_scale_in_8_bits(operation, scale, zero_point)
    data, zero = operation.data(), _int8_zero(zero_point)
    codes = builder.call(_ops.quantize_per_tensor, data, float(scale), zero, *_INT8)
    if not isinstance(codes, fx.Node):
        raise operation.unsupported("of a stored tensor")
    builder.codes.add(codes)
    return codes


def _dequantize(builder: Builder, operation: Operation) -> Value:
    (scale, zero_point), data = _numbers(operation), operation.data()
    if isinstance(data, fx.Node):
        operation.ignore("axis")
        _one_scale_in_8_bits(operation, scale, zero_point)
        if data not in builder.codes:
            raise operation.unsupported("of integers that no QuantizeLinear made")
        return builder.call(_ops.dequantize_per_tensor, data, float(scale), _int8_zero(zero_point), *_INT8)
    axis = operation.get("axis", 1) % max(data.ndim, 1)
    shape = [1] * data.ndim
    if scale.numel() > 1:
        shape[axis] = -1
        scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
    values = ((data.double() - zero_point.double()) * scale.double()).float()
    if data.dtype is torch.int8 and not zero_point.any():
        builder.grids[id(values)] = WeightGrid(scale.reshape(-1), axis if scale.numel() > 1 else None, values)
    return values


def _one_scale_in_8_bits(operation: Operation, scale: torch.Tensor, zero_point: torch.Tensor) -> None:
    if scale.numel() != 1:
        raise operation.unsupported("with one scale for each channel of an activation")
    if zero_point.dtype not in (torch.int8, torch.uint8):
        raise operation.unsupported(f"with {zero_point.dtype} codes".replace("torch.", ""))


def _numbers(operation: Operation) -> tuple[torch.Tensor, torch.Tensor]:
    scale, zero_point = operation.constant(1), operation.constant(2)
    if scale is None:
        raise operation.unsupported("without a stored scale")
    return scale, torch.zeros(scale.shape, dtype=torch.uint8) if zero_point is None else zero_point


def _int8_zero(zero_point: torch.Tensor) -> int:
    number = int(zero_point.reshape(-1)[0])
    return number - _UINT8_ZERO if zero_point.dtype is torch.uint8 else number


QUANTIZED: dict[str, Callable[[Builder, Operation], Value]] = {
    "DequantizeLinear": _dequantize,
    "QuantizeLinear": _quantize,
}
"""Handlers by ONNX name."""
