"""`dequantize_per_channel` as one ONNX operator.

The exporter's own translation first casts scales and zero points to ONNX's types, whatever types they have: two
operators for every weight and bias, which then have to be understood and folded away again.
"""

from __future__ import annotations

import onnx_ir as ir
import torch
import torch.ao.quantization.fx._decomposed  # registers the Q/DQ operators
from onnxscript.onnx_opset import opset18 as op
from onnxscript.onnx_types import TensorType

__all__ = ["OPERATOR", "dequantize_per_channel"]

OPERATOR = torch.ops.quantized_decomposed.dequantize_per_channel.default


def dequantize_per_channel(
    values: TensorType,
    scales: TensorType,
    zero_points: TensorType | None,
    axis: int,
    quant_min: int,
    quant_max: int,
    dtype: int,
    out_dtype: int = -1,
) -> TensorType:
    """`DequantizeLinear` along `axis`, with a cast of what has another type than it takes (scales float32)."""
    scales = _cast(scales, ir.DataType.FLOAT)
    zero_points = None if zero_points is None else _cast(zero_points, ir.DataType(dtype))
    # onnxscript's annotations are of arrays; what comes here are symbols
    restored: TensorType = op.DequantizeLinear(values, scales, zero_points, axis=axis)  # type: ignore[type-var,arg-type]
    return restored if out_dtype in (-1, None) else _cast(restored, ir.DataType(out_dtype))


def _cast(value: TensorType, dtype: ir.DataType) -> TensorType:
    if value.dtype == dtype:
        return value
    cast: TensorType = op.Cast(value, to=dtype)  # type: ignore[type-var]
    return cast
