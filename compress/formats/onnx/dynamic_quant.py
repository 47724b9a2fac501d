"""Matrix products in INT8 whose activation range is found while the model runs.

`y = x W + b` becomes DynamicQuantizeLinear(x) -> MatMulInteger with the int8 weight -> Cast -> Mul(scale_x * scale_w)
-> Add: standard operators since ONNX opset 11, which ONNX Runtime fuses into DynamicQuantizeMatMul, or into
MatMulIntegerToFloat where several products share one activation. Activations are uint8 with a zero point, one range for
the whole tensor: in a batch, a sample's result depends a little on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from compress.formats.onnx.building import constant, operator
from compress.formats.onnx.integer_weights import per_output
from compress.formats.onnx.linear_layers import Linear
from compress.formats.onnx.replace import replace

__all__ = ["FULL_RANGE", "OLDEST_OPSET", "REDUCED_RANGE", "quantize_linears"]

OLDEST_OPSET = 11
"""DynamicQuantizeLinear was new in ONNX opset 11, MatMulInteger in 10."""

FULL_RANGE = 127
REDUCED_RANGE = 64
"""Largest weight code. 2 x 255 x 64 fits a signed 16-bit sum, in which x86 without VNNI adds two u8 x s8 products."""


def quantize_linears(linears: Sequence[Linear], *, per_channel: bool, limit: int) -> None:
    """Rewrite `linears` (in execution order, all of one graph) in place.

    Products that share an activation share its DynamicQuantizeLinear, and those that share a weight share its codes.

    Args:
        per_channel: a weight scale for every output instead of one for all.
        limit: largest weight code.
    """
    activations: dict[ir.Value, ir.Node] = {}
    weights: dict[tuple[ir.Value, bool, float], tuple[ir.Value, ir.Value]] = {}
    for linear in linears:
        if linear.activation not in activations:
            activations[linear.activation] = _quantize_before(linear.node, linear.activation)
        if linear.key not in weights:
            weights[linear.key] = _integer_weight(linear, per_channel, limit)
        replace(linear.node, [_product(linear, activations[linear.activation], *weights[linear.key])])


def _quantize_before(node: ir.Node, activation: ir.Value) -> ir.Node:
    """A DynamicQuantizeLinear in the graph; its outputs are codes (uint8), scale and zero point."""
    quantize = ir.Node("", "DynamicQuantizeLinear", [activation], num_outputs=3, name=f"{activation.name}_quantize")
    types = (ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.UINT8)
    for value, dtype, role in zip(quantize.outputs, types, ("codes", "scale", "zero_point"), strict=True):
        value.type = ir.TensorType(dtype)
        value.name = f"{activation.name}_{role}"
    assert isinstance(node.graph, ir.Graph)
    node.graph.insert_before(node, quantize)
    return quantize


def _integer_weight(linear: Linear, per_channel: bool, limit: int) -> tuple[ir.Value, ir.Value]:
    """Codes int8 `[K, N]` and scales float32 `[N]` or `[]`."""
    quantized = per_output(linear.weight_by_output(), limit=limit, shared=not per_channel)
    codes = constant(linear.node, quantized.codes.T.copy(), "codes")
    return codes, constant(linear.node, quantized.scales, "scale")


def _product(linear: Linear, quantize: ir.Node, codes: ir.Value, scale: ir.Value) -> ir.Value:
    activation, activation_scale, zero_point = quantize.outputs
    sums = operator("MatMulInteger", activation, codes, zero_point, dtype=ir.DataType.INT32)
    floats = operator("Cast", sums, dtype=ir.DataType.FLOAT, attributes=[ir.AttrInt64("to", ir.DataType.FLOAT)])
    return linear.replaced_by(operator("Mul", floats, operator("Mul", activation_scale, scale)))
