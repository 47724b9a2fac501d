"""The 2:4 pattern, read off ONNX weights in both layouts of linear layers and behind integers."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.formats.onnx.pattern import onnx_pattern


def model(weight, op="Conv", zero_point=None):
    nodes, constants, name = [], [numpy_helper.from_array(weight, "w")], "w"
    if zero_point is not None:
        constants += [
            numpy_helper.from_array(np.float32(0.1), "scale"),
            numpy_helper.from_array(np.int8(zero_point), "zero"),
        ]
        nodes.append(helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["d"]))
        name = "d"
    nodes.append(helper.make_node(op, ["x", name], ["y"]))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, None)], [value("y", TensorProto.FLOAT, None)], constants
    )
    return helper.make_model(graph)


def two_four(shape, axis):
    """Two of four along `axis` are zero."""
    weight = np.random.default_rng(0).uniform(1, 2, shape).astype(np.float32)
    index = [slice(None)] * len(shape)
    for place in (1, 2):
        index[axis] = slice(place, None, 4)
        weight[tuple(index)] = 0
    return weight


@pytest.mark.parametrize(
    ("weight", "op", "following"),
    [
        (two_four((8, 8, 3, 3), 1), "Conv", 1),
        (two_four((8, 8, 3, 3), 0), "Conv", 0),
        (two_four((8, 6, 1, 1), 0), "Conv", 0),
        (two_four((8, 6), 0), "MatMul", 1),
        (two_four((6, 8), 1), "Gemm", 1),
        (np.ones((8, 8), np.float32), "MatMul", 0),
    ],
)
def test_layers_that_follow_it_are_counted(weight, op, following):
    found = onnx_pattern(model(weight, op), 2, 4)
    assert (found.following, found.layers) == (following, 1)


@pytest.mark.parametrize("zero_point", [0, 3])
def test_integers_are_zero_at_their_zero_point(zero_point):
    weight = two_four((8, 8, 1, 1), 1).astype(np.int8) * 5 + np.int8(zero_point)
    assert onnx_pattern(model(weight, zero_point=zero_point), 2, 4).following == 1
    assert onnx_pattern(model(weight, zero_point=zero_point), 1, 4).following == 0
