"""Newer ONNX operators written with operators of opset 13; each follows the operator's definition in the ONNX spec."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from compress.formats.onnx.building import NoOlderForm, attribute_int, constant, integers, operator, rank_of, scalar

__all__ = [
    "cast_like",
    "gelu",
    "group_normalization",
    "hard_swish",
    "identity",
    "layer_normalization",
    "mish",
    "sliced_shape",
    "swish",
]

_INT64_MAX = 2**63 - 1


def identity(node: ir.Node) -> ir.Value:
    """The node's first input, unchanged."""
    return operator("Identity", node.inputs[0])


def cast_like(node: ir.Node) -> ir.Value:
    """CastLike(x, y), 15: Cast to the type of y."""
    like = node.inputs[1]
    if like is None or like.dtype is None:
        raise NoOlderForm("the type it casts to is not known")
    return operator("Cast", node.inputs[0], dtype=like.dtype, attributes=[ir.AttrInt64("to", like.dtype)])


def hard_swish(node: ir.Node) -> ir.Value:
    """HardSwish(x), 14: x * max(0, min(1, x / 6 + 1/2))."""
    x = node.inputs[0]
    gate = operator("HardSigmoid", x, attributes=[ir.AttrFloat32("alpha", 1 / 6), ir.AttrFloat32("beta", 0.5)])
    return operator("Mul", x, gate)


def mish(node: ir.Node) -> ir.Value:
    """Mish(x), 18: x * tanh(ln(1 + e^x))."""
    x = node.inputs[0]
    return operator("Mul", x, operator("Tanh", operator("Softplus", x)))


def swish(node: ir.Node) -> ir.Value:
    """Swish(x), 24: x * sigmoid(alpha * x)."""
    x = node.inputs[0]
    alpha = node.attributes.get_float("alpha", 1.0)
    scaled = x if alpha == 1.0 else operator("Mul", x, scalar(node, alpha, _dtype(node), "alpha"))
    return operator("Mul", x, operator("Sigmoid", scaled))


def gelu(node: ir.Node) -> ir.Value:
    """Gelu(x), 20: x/2 * (1 + erf(x / sqrt 2)), or x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))."""
    x, dtype = node.inputs[0], _dtype(node)
    if node.attributes.get_string("approximate", "none") == "tanh":
        cube = operator("Mul", operator("Mul", x, x), x)
        inner = operator("Add", x, operator("Mul", cube, scalar(node, 0.044715, dtype, "cubic")))
        gate = operator("Tanh", operator("Mul", inner, scalar(node, math.sqrt(2 / math.pi), dtype, "slope")))
    else:
        gate = operator("Erf", operator("Mul", x, scalar(node, math.sqrt(0.5), dtype, "slope")))
    half = operator("Mul", x, scalar(node, 0.5, dtype, "half"))
    return operator("Mul", half, operator("Add", gate, scalar(node, 1.0, dtype, "one")))


def layer_normalization(node: ir.Node) -> ir.Value:
    """LayerNormalization(x, scale, bias), 17: (x - mean) / sqrt(var + epsilon) * scale + bias.

    The statistics are float32 (`stash_type` 1) also for float16 inputs, whose squares would overflow.
    """
    if any(value.uses() for value in node.outputs[1:]):
        raise NoOlderForm("its mean output is used")
    rank = rank_of(node, 0)
    first = attribute_int(node, "axis", -1) % rank
    axes = ir.AttrInt64s("axes", list(range(first, rank)))
    dtype = _dtype(node)
    x = _cast(node.inputs[0], ir.DataType.FLOAT)
    centred = operator("Sub", x, operator("ReduceMean", x, attributes=[axes]))
    variance = operator("ReduceMean", operator("Mul", centred, centred), attributes=[axes])
    epsilon = scalar(node, node.attributes.get_float("epsilon", 1e-5), ir.DataType.FLOAT, "epsilon")
    deviation = operator("Sqrt", operator("Add", variance, epsilon))
    scaled = operator("Mul", _cast(operator("Div", centred, deviation), dtype), node.inputs[1])
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return scaled if bias is None else operator("Add", scaled, bias)


def group_normalization(node: ir.Node, *, per_channel: bool) -> ir.Value:
    """GroupNormalization(x, scale, bias), 18: InstanceNormalization over the groups, then scale and bias.

    Args:
        per_channel: scale and bias are `[channels]` (opset 21); else `[groups]` (opset 18).
    """
    x, scale, bias = node.inputs[0], node.inputs[1], node.inputs[2]
    rank, dtype = rank_of(node, 0), _dtype(node)
    groups = node.attributes["num_groups"].as_int()
    grouped = operator("Reshape", x, integers(node, [0, groups, -1], "grouped"))
    epsilon = ir.AttrFloat32("epsilon", node.attributes.get_float("epsilon", 1e-5))
    weights: list[ir.Value | None] = [scale, bias]
    if per_channel:
        weights = [constant(node, np.full(groups, fill, dtype.numpy()), f"all_{fill}") for fill in (1, 0)]
    normal = operator("InstanceNormalization", grouped, *weights, attributes=[epsilon])
    restored = operator("Reshape", normal, operator("Shape", x, dtype=ir.DataType.INT64))
    if not per_channel:
        return restored
    column = integers(node, [-1] + [1] * (rank - 2), "column")
    scaled = operator("Mul", restored, operator("Reshape", scale, column))
    return operator("Add", scaled, operator("Reshape", bias, column))


def sliced_shape(node: ir.Node) -> ir.Value:
    """Shape(x) with start and end, 15: a slice of the whole shape."""
    whole = operator("Shape", node.inputs[0], dtype=ir.DataType.INT64)
    start = integers(node, [attribute_int(node, "start")], "start")
    end = integers(node, [attribute_int(node, "end", _INT64_MAX)], "end")
    return operator("Slice", whole, start, end)


def _dtype(node: ir.Node) -> ir.DataType:
    value = node.inputs[0]
    dtype = value.dtype if value is not None else None
    if dtype is None:
        raise NoOlderForm("the type of its input is not known")
    return dtype


def _cast(value: ir.Value | None, dtype: ir.DataType) -> ir.Value | None:
    if value is None or value.dtype == dtype:
        return value
    return operator("Cast", value, dtype=dtype, attributes=[ir.AttrInt64("to", dtype)])
