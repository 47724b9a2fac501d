"""Tiny ONNX graphs with known limits, which the machine is measured with."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compress.core.artifact import Precision

__all__ = ["matrix_product", "tiny_chain"]

_OPSET = 13


def matrix_product(size: int, precision: Precision) -> bytes:
    """`x` times a constant, both `[size, size]`: float32, or uint8 times int8 summed in int32."""
    integer = precision is Precision.INT8
    values = np.random.default_rng(0).integers(-2, 3, (size, size)).astype(np.int8 if integer else np.float32)
    node = helper.make_node("MatMulInteger" if integer else "MatMul", ["x", "w"], ["y"])
    kinds = (TensorProto.UINT8, TensorProto.INT32) if integer else (TensorProto.FLOAT, TensorProto.FLOAT)
    return _model([node], (size, size), kinds, [numpy_helper.from_array(values, "w")])


def tiny_chain(length: int, inputs: int = 2) -> bytes:
    """`length` sums of `inputs` times 4 numbers, one after the other: nothing but the cost of starting each."""
    names = ["x", *(f"v{index}" for index in range(1, length)), "y"]
    nodes = [
        helper.make_node("Sum", [before, *["c"] * (inputs - 1)], [after], name=after)
        for before, after in itertools.pairwise(names)
    ]
    constant = numpy_helper.from_array(np.ones(4, np.float32), "c")
    return _model(nodes, (4,), (TensorProto.FLOAT, TensorProto.FLOAT), [constant])


def _model(
    nodes: list[onnx.NodeProto],
    shape: tuple[int, ...],
    kinds: tuple[int, int],
    constants: list[onnx.TensorProto],
) -> bytes:
    ports = [
        helper.make_tensor_value_info(name, kind, list(shape)) for name, kind in zip(("x", "y"), kinds, strict=True)
    ]
    graph = helper.make_graph(nodes, "small", ports[:1], ports[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content
