"""Models with one known bottleneck, and the files they are saved as."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def save(path, nodes, inputs, outputs, constants=(), *, opset=13):
    """An ONNX file of float tensors; `inputs` and `outputs` are shapes by name."""
    ports = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in group.items()]
        for group in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "small", *ports, [numpy_helper.from_array(a, n) for n, a in constants])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, path)
    return path


def large_product(path, size=768):
    """Compute: 2 size^3 operations on 3 size^2 numbers."""
    weight = np.random.default_rng(0).standard_normal((size, size), dtype=np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    return save(path, [node], {"x": [size, size]}, {"y": [size, size]}, [("w", weight)])


def elementwise_chain(path, elements=4_000_000, length=4):
    """Bandwidth: one addition for every 12 bytes, in tensors that no cache holds all of."""
    names = ["x", *(f"v{i}" for i in range(1, length)), "y"]
    nodes = [
        helper.make_node("Add", [a, "x"], [b], name=f"add{i}") for i, (a, b) in enumerate(itertools.pairwise(names))
    ]
    return save(path, nodes, {"x": [elements]}, {"y": [elements]})


def tiny_operators(path, length=300):
    """Launch: hundreds of nodes with 8 numbers each, of kinds that nothing fuses or folds."""
    nodes, last = [], "x"
    for index in range(length):
        kind = ("Neg", "Abs", "Add")[index % 3]
        name = f"v{index}" if index < length - 1 else "y"
        inputs = [last, "x"] if kind == "Add" else [last]
        nodes.append(helper.make_node(kind, inputs, [name], name=f"{kind}{index}"))
        last = name
    return save(path, nodes, {"x": [8]}, {"y": [8]})
