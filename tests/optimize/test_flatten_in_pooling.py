"""Global means that drop their dimensions themselves."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from text_graphs import graph, images, kinds, run

from compress.optimize.pooling import flatten_in_pooling


def rewritten(model: onnx.ModelProto) -> onnx.ModelProto:
    made = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(model))
    flatten_in_pooling(made)
    return ir.serde.serialize_model(made)


@pytest.mark.parametrize(
    ("body", "constants", "opset"),
    [
        ("m = ReduceMean<axes=[2,3]>(x) y = Reshape(m, t)", "int64[2] t = {1, 3}", 17),
        ("m = ReduceMean<axes=[-1,-2], keepdims=1>(x) y = Flatten(m)", "", 17),
        ("m = ReduceMean<axes=[2,3]>(x) y = Squeeze(m, t)", "int64[2] t = {2, 3}", 17),
        ("m = ReduceMean(x, a) y = Reshape(m, t)", "int64[2] t = {-1, 3}, int64[2] a = {2, 3}", 18),
    ],
)
@pytest.mark.parametrize("batch", ["1", "N"])
def test_what_only_drops_the_reduced_dimensions_goes(body, constants, opset, batch):
    if batch == "N":
        constants = constants.replace("t = {1, 3}", "t = {-1, 3}")
    model = graph(body, constants, x=f"float[{batch},3,8,8]", y=f"float[{batch},3]", opset=opset)
    made = rewritten(model)
    onnx.checker.check_model(made, full_check=True)
    assert kinds(made) == ["ReduceMean"]
    assert made.graph.output[0].name == "y"
    np.testing.assert_array_equal(run(made, images(1)), run(model, images(1)))


@pytest.mark.parametrize(
    ("body", "constants", "y"),
    [
        ("m = ReduceMean<axes=[2,3]>(x) y = Reshape(m, t)", "int64[2] t = {3, 1}", "float[3,1]"),
        ("m = ReduceMean<axes=[1,2]>(x) y = Reshape(m, t)", "int64[2] t = {1, 8}", "float[1,8]"),
        ("m = ReduceMean<axes=[2,3]>(x) f = Flatten(m) g = Sigmoid(m) h = Flatten(g) y = Add(f, h)", "", "float[1,3]"),
        ("m = ReduceMean<axes=[3]>(x) y = Flatten(m)", "", "float[1,24]"),
    ],
    ids=["another order", "another dimension", "read twice", "one dimension"],
)
def test_anything_else_stays(body, constants, y):
    model = graph(body, constants, y=y)
    assert kinds(rewritten(model)) == kinds(model)
