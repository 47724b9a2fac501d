"""Forms of what a parser lacks, of operators that every parser has: a table from operator to form.

A form gets the node. It edits the node in place and returns None, or returns the value that replaces the node's first
output (new nodes hang behind it), or raises `NoOlderForm`. Each computes the operator's definition in the ONNX spec, at
opset 13 and at 17; its nodes are held against the parser's table in turn.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from compress.formats.onnx import expansions
from compress.formats.onnx.building import (
    NoOlderForm,
    attribute_int,
    constant,
    constant_ints,
    integers,
    operator,
    rank_of,
    scalar,
)
from compress.formats.onnx.parsers.cubic import cubic_as_products
from compress.formats.onnx.parsers.rules import constant_array
from compress.formats.onnx.parsers.symmetric import symmetric_dequantize, symmetric_quantize

__all__ = ["FORMS", "Form"]

Form = Callable[[ir.Node], "ir.Value | None"]

_MVN_EPSILON = 1e-9
"""Of MeanVarianceNormalization's definition as a function (ONNX spec)."""

_INT64_MAX = 2**63 - 1

_IN_FLOAT32 = (
    "BatchNormalization",
    "Gemm",
    "GlobalLpPool",
    "InstanceNormalization",
    "LpNormalization",
    "LpPool",
    "Mean",
)
"""Importers of these read or add constants as float32, whatever the type of the tensor."""


def celu(node: ir.Node) -> ir.Value:
    """Celu(x), 12: max(0, x) + min(0, alpha * (exp(x / alpha) - 1))."""
    x, dtype = node.inputs[0], _dtype(node)
    alpha = scalar(node, node.attributes.get_float("alpha", 1.0) or 1.0, dtype, "alpha")
    rise = operator("Sub", operator("Exp", operator("Div", x, alpha)), scalar(node, 1.0, dtype, "one"))
    zero = scalar(node, 0.0, dtype, "zero")
    low = operator("Min", operator("Mul", rise, alpha), zero)
    return operator("Add", operator("Relu", x), low)


def clip(node: ir.Node) -> ir.Value:
    """Clip(x, low, high), 13: min(max(x, low), high); from 0 it is Relu, which fuses into the layer before."""
    result = node.inputs[0]
    low, high = (node.inputs[position] if position < len(node.inputs) else None for position in (1, 2))
    if low is not None:
        bound = constant_array(node, 1)
        is_zero = bound is not None and not np.any(bound)
        result = operator("Relu", result) if is_zero else operator("Max", result, low)
    if high is not None:
        result = operator("Min", result, high)
    return result if result is not node.inputs[0] and result is not None else expansions.identity(node)


def in_float32(node: ir.Node) -> ir.Value:
    """The operator itself in float32, between casts; float16 constants are written as float32."""
    if node.outputs[0].dtype != ir.DataType.FLOAT16 or len(node.outputs) > 1:
        raise NoOlderForm("it is not one float16 operator with one output")
    wide = [_widened(node, position) for position in range(len(node.inputs))]
    result = operator(node.op_type, *wide, dtype=ir.DataType.FLOAT, attributes=list(node.attributes.values()))
    return _cast(result, ir.DataType.FLOAT16)


def _widened(node: ir.Node, position: int) -> ir.Value | None:
    value = node.inputs[position]
    if value is None or value.dtype != ir.DataType.FLOAT16:
        return value
    numbers = constant_array(node, position)
    if numbers is None:
        return _cast(value, ir.DataType.FLOAT)
    return constant(node, numbers.astype(np.float32), f"wide_{position}")


def mean_variance_normalization(node: ir.Node) -> ir.Value:
    """MeanVarianceNormalization(x), 13: (x - mean) / (sqrt(mean((x - mean)^2)) + 1e-9)."""
    x = _cast(node.inputs[0], ir.DataType.FLOAT)
    axes = ir.AttrInt64s("axes", list(node.attributes.get_ints("axes", [0, 2, 3]) or [0, 2, 3]))
    centred = operator("Sub", x, operator("ReduceMean", x, attributes=[axes]))
    variance = operator("ReduceMean", operator("Mul", centred, centred), attributes=[axes])
    epsilon = scalar(node, _MVN_EPSILON, ir.DataType.FLOAT, "epsilon")
    return _cast(operator("Div", centred, operator("Add", operator("Sqrt", variance), epsilon)), _dtype(node))


def pad(node: ir.Node) -> ir.Value:
    """Pad(x, pads, value), 13: negative pads as Slice before it; a zero left out; another value in float32."""
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        raise NoOlderForm("it pads chosen axes")
    pads = np.reshape(constant_ints(node.inputs[1], "pads"), (2, -1))
    mode = node.attributes.get_string("mode", "constant")
    if np.any(pads < 0) and mode != "constant":
        raise NoOlderForm(f"negative pads in mode {mode}")
    x = _cropped(node, pads) if np.any(pads < 0) else node.inputs[0]
    grown = integers(node, np.maximum(pads, 0).ravel().tolist(), "grown")
    if not np.any(pads > 0):
        return x if x is not None and x is not node.inputs[0] else expansions.identity(node)
    attributes = list(node.attributes.values())
    fill = constant_array(node, 2) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros(())
    if fill is None:
        raise NoOlderForm("its constant value is computed at run time")
    if not np.any(fill):
        return operator("Pad", x, grown, attributes=attributes)
    value = scalar(node, float(fill.ravel()[0]), ir.DataType.FLOAT, "fill32")
    return _cast(operator("Pad", _cast(x, ir.DataType.FLOAT), grown, value, attributes=attributes), _dtype(node))


def _cropped(node: ir.Node, pads: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> ir.Value:
    starts = np.maximum(-pads[0], 0)
    ends = [_INT64_MAX if end >= 0 else int(end) for end in pads[1]]
    axes = list(range(len(starts)))
    return operator(
        "Slice",
        node.inputs[0],
        integers(node, starts.tolist(), "starts"),
        integers(node, ends, "ends"),
        integers(node, axes, "axes"),
    )


def power(node: ir.Node) -> ir.Value:
    """Pow(x, y), 13, with y in the type of x."""
    base, exponent = node.inputs[0], node.inputs[1]
    dtype = _dtype(node)
    numbers = constant_array(node, 1)
    if not dtype.is_floating_point():
        raise NoOlderForm("its base is an integer")
    if numbers is None:
        return operator("Pow", base, _cast(exponent, dtype))
    return operator("Pow", base, constant(node, numbers.astype(dtype.numpy()), "exponent"))


def trilu(node: ir.Node) -> ir.Value:
    """Trilu(x, k), 14: x where a constant mask is true, else 0; the last two dimensions must be known."""
    value = node.inputs[0]
    shape = value.shape if value is not None else None
    offset = constant_ints(node.inputs[1], "diagonal")[0] if len(node.inputs) > 1 and node.inputs[1] is not None else 0
    rank = rank_of(node, 0)
    rows, columns = (shape[axis] for axis in (rank - 2, rank - 1)) if shape is not None else (None, None)
    if not isinstance(rows, int) or not isinstance(columns, int):
        raise NoOlderForm("the size of its input is not known")
    cut = np.triu if attribute_int(node, "upper", 1) else np.tril
    mask = constant(node, cut(np.ones((rows, columns), dtype=bool), offset), "mask")
    return operator("Where", mask, value, scalar(node, 0.0, _dtype(node), "zero"), dtype=_dtype(node))


def shrink(node: ir.Node) -> ir.Value:
    """Shrink(x), 9: x + bias below -lambd, x - bias above lambd, 0 between."""
    x, dtype = node.inputs[0], _dtype(node)
    edge = node.attributes.get_float("lambd", 0.5) or 0.0
    bias = scalar(node, node.attributes.get_float("bias", 0.0) or 0.0, dtype, "bias")
    below = operator("Less", x, scalar(node, -edge, dtype, "low"), dtype=ir.DataType.BOOL)
    above = operator("Greater", x, scalar(node, edge, dtype, "high"), dtype=ir.DataType.BOOL)
    upper = operator("Where", above, operator("Sub", x, bias), scalar(node, 0.0, dtype, "zero"), dtype=dtype)
    return operator("Where", below, operator("Add", x, bias), upper, dtype=dtype)


def _dtype(node: ir.Node) -> ir.DataType:
    value = node.inputs[0]
    if value is None or value.dtype is None:
        raise NoOlderForm("the type of its input is not known")
    return value.dtype


def _cast(value: ir.Value | None, dtype: ir.DataType) -> ir.Value:
    if value is None:
        raise NoOlderForm("it has no input")
    if value.dtype == dtype:
        return value
    return operator("Cast", value, dtype=dtype, attributes=[ir.AttrInt64("to", dtype)])


FORMS: dict[str, Form] = {
    **dict.fromkeys(_IN_FLOAT32, in_float32),
    "Celu": celu,
    "Clip": clip,
    "DequantizeLinear": symmetric_dequantize,
    "LayerNormalization": expansions.layer_normalization,
    "MeanVarianceNormalization": mean_variance_normalization,
    "Pad": pad,
    "Pow": power,
    "QuantizeLinear": symmetric_quantize,
    "Resize": cubic_as_products,
    "Shrink": shrink,
    "Trilu": trilu,
}
