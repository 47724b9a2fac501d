"""Quantized activations that LiteRT has no integer kernel for, written with operators that have one.

    hardsigmoid(x) = relu6(x + 3) / 6        ADD with a fused RELU6, then MUL
    hardswish(x)   = x hardsigmoid(x)        and another MUL, for devices without HARD_SWISH (the Edge TPU)

`relu6` fills its range exactly: scale 6/255 and zero point -128 are lossless, and the constants 3 and 1/6 are one step
of 127 each, so the only rounding beyond the one at the output is that of `x + 3`.
"""

from __future__ import annotations

import torch
import torch.ao.quantization.fx._decomposed  # registers the Q/DQ operators
from torch import fx

from compress.graph.capture import bind, call_nodes

__all__ = ["expand_activations", "is_quantized"]

aten = torch.ops.aten
_ops = torch.ops.quantized_decomposed
_QUANTIZE = _ops.quantize_per_tensor.default
_DEQUANTIZE = _ops.dequantize_per_tensor.default
_LARGEST = 127  # of int8; a constant is stored as exactly this
_INT8 = (-128, 127, torch.int8)


def expand_activations(graph: fx.GraphModule, *, hardswish: bool) -> None:
    """Rewrite, in place, the hardsigmoids (and hardswishes) that stand between a dequantize and a quantize."""
    for node in call_nodes(graph):
        if node.target is aten.hardsigmoid.default and is_quantized(node):
            _replace(graph, node, _hardsigmoid(graph, node))
        elif hardswish and node.target is aten.hardswish.default and is_quantized(node):
            _replace(graph, node, _hardswish(graph, node))


def is_quantized(node: fx.Node) -> bool:
    """Tell whether an operator stands between a dequantize and quantizes."""
    source = node.args[0] if node.args else None
    return (
        isinstance(source, fx.Node)
        and bool(node.users)
        and source.target is _DEQUANTIZE
        and all(user.target is _QUANTIZE for user in node.users)
    )


def _hardsigmoid(graph: fx.GraphModule, node: fx.Node) -> fx.Node:
    """The product before its quantization, which the caller's users do."""
    with graph.graph.inserting_before(node):
        shifted = graph.graph.call_function(aten.add.Tensor, (node.args[0], _stored(graph, node, 3.0)))
        clipped = graph.graph.call_function(aten.hardtanh.default, (shifted, 0.0, 6.0))
        return graph.graph.call_function(
            aten.mul.Tensor, (_pair(graph, clipped, 6 / 255, -128), _stored(graph, node, 1 / 6))
        )


def _hardswish(graph: fx.GraphModule, node: fx.Node) -> fx.Node:
    gate = _hardsigmoid(graph, node)
    with graph.graph.inserting_before(node):
        return graph.graph.call_function(aten.mul.Tensor, (node.args[0], _pair(graph, gate, 1 / 255, -128)))


def _pair(graph: fx.GraphModule, source: fx.Node, scale: float, zero_point: int) -> fx.Node:
    quantized = graph.graph.call_function(_QUANTIZE, (source, scale, zero_point, *_INT8))
    return graph.graph.call_function(_DEQUANTIZE, (quantized, scale, zero_point, *_INT8))


def _stored(graph: fx.GraphModule, node: fx.Node, value: float) -> fx.Node:
    """A constant and its Q/DQ pair."""
    name = f"{node.name}_constant_{value:.3g}".replace(".", "_")
    # Of the activation's rank: the converter moves the axes of both operands of an operator alike.
    bind(graph, name, torch.full((1,) * node.meta["val"].ndim, value), trainable=False)
    return _pair(graph, graph.graph.get_attr(name), value / _LARGEST, 0)


def _replace(graph: fx.GraphModule, node: fx.Node, result: fx.Node) -> None:
    node.replace_all_uses_with(result)
    graph.graph.erase_node(node)
