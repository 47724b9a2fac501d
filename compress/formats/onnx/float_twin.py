"""The float network inside a Q/DQ file: the same layers and the same (rounded) weights, nothing quantized between them.

What INT8 is raced against in FP16: any difference in speed is that of the arithmetic. Needs nothing but onnx and numpy.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

__all__ = ["float_twin"]

_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


def float_twin(model: onnx.ModelProto, keep: Collection[str] = ()) -> onnx.ModelProto:
    """A copy without Q/DQ: integer weights become float, pairs on activations become wires.

    Args:
        keep: names of quantized tensors (outputs of QuantizeLinear, integer initializers) that stay quantized.
    """
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    graph = twin.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    producer = {node.output[0]: node for node in graph.node}
    renamed: dict[str, str] = {}
    dropped: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type != _DEQUANTIZE or node.input[0] in keep:
            continue
        if node.input[0] in stored:
            weight = _dequantized(node, stored)
            graph.initializer.append(numpy_helper.from_array(weight, node.output[0]))
            dropped.append(node)
        elif producer[node.input[0]].op_type == _QUANTIZE:
            renamed[node.output[0]] = producer[node.input[0]].input[0]
            dropped.append(node)
    _rewire(graph, renamed)
    for node in dropped:
        graph.node.remove(node)
    _drop_unused(graph)
    return twin


def _dequantized(node: onnx.NodeProto, stored: dict[str, onnx.TensorProto]) -> NDArray[np.float32]:
    """`(code - zero_point) * scale`, the scale along `axis` where there are several (ONNX DequantizeLinear-13)."""
    codes, scale = (numpy_helper.to_array(stored[name]) for name in node.input[:2])
    zero = numpy_helper.to_array(stored[node.input[2]]) if len(node.input) > 2 else np.zeros_like(scale, np.int32)
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    if scale.ndim and scale.size > 1:
        shape = [-1 if index == axis % codes.ndim else 1 for index in range(codes.ndim)]
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    weight: NDArray[np.float32] = ((codes.astype(np.int32) - zero.astype(np.int32)) * scale).astype(np.float32)
    return weight


def _rewire(graph: onnx.GraphProto, renamed: dict[str, str]) -> None:
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = _origin(name, renamed)
    for node in graph.node:  # a pair right before the graph's output: its producer takes the output's name
        for output in graph.output:
            if output.name in renamed and _origin(output.name, renamed) in node.output:
                node.output[list(node.output).index(_origin(output.name, renamed))] = output.name


def _origin(name: str, renamed: dict[str, str]) -> str:
    while name in renamed:
        name = renamed[name]
    return name


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Quantizers that nobody reads, then initializers that nobody reads."""
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    for node in [node for node in graph.node if node.op_type == _QUANTIZE and node.output[0] not in used]:
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
