"""The same INT8 network with weights in 7 bits: one that a CPU without VNNI or AMX computes exactly.

x86 multiplies u8 by s8 pairs into saturating 16-bit sums there (`vpmaddubsw`); 2 x 255 x 64 is below 2^15. Real values
stay what they were to half a step of the coarser weights, so whoever compares two runs of a file compares two runs of
this one instead.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["in_7_bits", "integer_products", "products_saturate"]

_HALVED = (TensorProto.INT8, TensorProto.INT32)
"""Types of weights and of biases, whose scale is input scale x weight scale and has to stay that."""

_PLACES = {
    "DequantizeLinear": ((0, 1, 2),),
    "QLinearConv": ((3, 4, 5), (8, None, None)),
    "QLinearMatMul": ((3, 4, 5),),
    "DynamicQuantizeLSTM": ((1, 8, 9), (2, 10, 11)),
}
"""Inputs that are integers, their scale, and their zero point; a bias in the scale of the products has none."""

_PRODUCTS = ("QLinearConv", "QLinearMatMul", "MatMulInteger", "ConvInteger", "DynamicQuantizeLSTM", "QGemm")


@dataclass(frozen=True)
class _Use:
    """Reader of stored integers: the input of a node that holds their scale, None for a bias."""

    node: onnx.NodeProto | None = None
    scale: int = 0


def in_7_bits(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` with every stored weight and bias that is symmetric halved and its scale doubled.

    Weights whose scale is not found, or is not stored, stay as they are.
    """
    halved = onnx.ModelProto()
    halved.CopyFrom(model)
    stored = {tensor.name: tensor for tensor in halved.graph.initializer}
    readers = Counter(name for node in halved.graph.node for name in node.input)
    uses_by_name: dict[str, list[_Use]] = {}
    for name, use in _uses(halved.graph, stored):
        uses_by_name.setdefault(name, []).append(use)
    doubled: set[str] = set()
    for name, uses in uses_by_name.items():
        if len(uses) == readers[name] and stored[name].data_type in _HALVED:
            values = numpy_helper.to_array(stored[name])
            stored[name].CopyFrom(numpy_helper.from_array(np.rint(values / 2).astype(values.dtype), name))
            for use in uses:
                _double(use, halved.graph, stored, doubled)
    return halved


def integer_products(model: onnx.ModelProto) -> bool:
    """Tell whether the file itself asks for products of integers: run operator by operator they are no float ones."""
    return any(node.op_type in _PRODUCTS for node in model.graph.node)


@functools.cache
def products_saturate() -> bool:
    """Tell whether ONNX Runtime gets a sum of byte products wrong on this processor: asked of it, not of its name."""
    from compress.formats.onnx.runtime import open_session

    rows, inner, columns = 8, 64, 16
    weight = numpy_helper.from_array(np.full((inner, columns), 127, np.int8), "w")
    ports = [
        helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in (
            ("x", TensorProto.UINT8, [rows, inner]),
            ("y", TensorProto.INT32, [rows, columns]),
        )
    ]
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "products", ports[:1], ports[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = open_session(model.SerializeToString(), threads=1)
    (sums,) = session.run(None, {"x": np.full((rows, inner), 255, np.uint8)})
    return bool((sums != 255 * 127 * inner).any())


def _uses(graph: onnx.GraphProto, stored: Mapping[str, TensorProto]) -> Iterator[tuple[str, _Use]]:
    """Stored integers with where they are read, if their scale is known and their zero point is zero."""
    for node in graph.node:
        for position, scale, zero_point in _PLACES.get(node.op_type, ()):
            if len(node.input) <= position or node.input[position] not in stored:
                continue
            if scale is None:
                yield node.input[position], _Use()
            elif node.input[scale] in stored and _is_zero(node, zero_point, stored):
                yield node.input[position], _Use(node, scale)
        if node.op_type == "MatMulInteger" and node.input[1] in stored and _is_zero(node, 3, stored):
            use = _scale_of_product(node, graph, stored)
            if use is not None:
                yield node.input[1], use


def _is_zero(node: onnx.NodeProto, position: int | None, stored: Mapping[str, TensorProto]) -> bool:
    if position is None or len(node.input) <= position or not node.input[position]:
        return True
    tensor = stored.get(node.input[position])
    return tensor is not None and not numpy_helper.to_array(tensor).any()


def _scale_of_product(
    product: onnx.NodeProto, graph: onnx.GraphProto, stored: Mapping[str, TensorProto]
) -> _Use | None:
    """`Mul(Cast(product), Mul(activation scale, weight scale))`, as dynamic quantization writes it."""
    cast = _only_reader(product.output[0], "Cast", graph)
    scaled = _only_reader(cast.output[0], "Mul", graph) if cast is not None else None
    if cast is None or scaled is None:
        return None
    factor = next(name for name in scaled.input if name != cast.output[0])
    for node in (scaled, *(node for node in graph.node if factor in node.output and node.op_type == "Mul")):
        for position, name in enumerate(node.input):
            if name in stored:
                return _Use(node, position)
    return None


def _only_reader(name: str, op_type: str, graph: onnx.GraphProto) -> onnx.NodeProto | None:
    readers = [node for node in graph.node if name in node.input]
    return readers[0] if len(readers) == 1 and readers[0].op_type == op_type else None


def _double(use: _Use, graph: onnx.GraphProto, stored: Mapping[str, TensorProto], doubled: set[str]) -> None:
    """Let the use read twice its scale, from a tensor of its own: others may read the same one."""
    if use.node is None:
        return
    name = use.node.input[use.scale]
    values, own = numpy_helper.to_array(stored[name]), f"{name}_doubled_{len(doubled)}"
    doubled.add(own)
    graph.initializer.append(numpy_helper.from_array((2 * values).astype(values.dtype), own))
    use.node.input[use.scale] = own
