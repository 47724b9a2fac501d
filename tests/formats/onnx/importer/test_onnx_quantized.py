"""Quantized ONNX files: scales and integers survive the import."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from compress.core.artifact import InputSpec
from compress.formats.onnx.importer import onnx_to_module
from compress.graph.capture import capture

X = np.random.default_rng(0).uniform(-1, 1, (3, 2, 4, 4)).astype(np.float32)


def stored(name, values):
    return numpy_helper.from_array(np.asarray(values), name)


@pytest.fixture(params=["uint8", "int8"])
def quantized_file(request, tmp_path):
    """QDQ -> Conv (scale per channel) -> QDQ -> GlobalAveragePool -> Flatten -> MatMul (one scale)."""
    rng, kind = np.random.default_rng(1), np.dtype(request.param)
    zero = kind.type(128 if request.param == "uint8" else 0)
    initializers = [
        stored("x_s", np.float32(0.01)),
        stored("zp", zero),
        stored("w", rng.integers(-127, 128, (4, 2, 3, 3)).astype(np.int8)),
        stored("w_s", np.array([0.001, 0.002, 0.003, 0.004], np.float32)),
        stored("w_z", np.zeros(4, np.int8)),
        stored("y_s", np.float32(0.05)),
        stored("m", rng.integers(-127, 128, (5, 4)).astype(np.int8)),
        stored("m_s", np.float32(0.01)),
        stored("m_z", np.int8(0)),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_s", "zp"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "x_s", "zp"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "w_s", "w_z"], ["wd"], axis=0),
        helper.make_node("Conv", ["xd", "wd"], ["y"], pads=[1, 1, 1, 1]),
        helper.make_node("QuantizeLinear", ["y", "y_s", "zp"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "y_s", "zp"], ["yd"]),
        helper.make_node("GlobalAveragePool", ["yd"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("DequantizeLinear", ["m", "m_s", "m_z"], ["md"]),
        helper.make_node("Transpose", ["md"], ["mt"], perm=[1, 0]),
        helper.make_node("MatMul", ["f", "mt"], ["z"]),
    ]
    make = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [make("x", 1, [1, 2, 4, 4])], [make("z", 1, [1, 5])], initializers)
    path = tmp_path / "q.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), path)
    return path


def test_the_module_computes_what_the_file_says(quantized_file):
    session = ReferenceEvaluator(str(quantized_file))
    module = onnx_to_module(quantized_file)
    expected = np.concatenate([session.run(None, {"x": image[None]})[0] for image in X])
    with torch.no_grad():
        given = module(torch.from_numpy(X)).numpy()
    np.testing.assert_allclose(given, expected, atol=2e-5)


def test_scales_and_integers_are_in_the_captured_graph(quantized_file):
    graph = capture(onnx_to_module(quantized_file), InputSpec((2, 4, 4), "planes", (0, 0), (1, 1)))
    calls = [node for node in graph.graph.nodes if node.op == "call_function"]
    per_tensor = [
        node.args[1:] for node in calls if str(node.target).startswith("quantized_decomposed.quantize_per_tensor")
    ]
    assert {(round(scale, 6), zero, low) for scale, zero, low, _, _ in per_tensor} == {
        (0.01, 0, -128),  # uint8 around 128 is int8 around 0
        (0.05, 0, -128),
        (0.01, 0, -127),  # the matrix
    }
    (weight,) = [
        node for node in calls if "quantize_per_channel" in str(node.target) and "dequantize" not in str(node.target)
    ]
    values = dict(graph.named_parameters()) | dict(graph.named_buffers())
    integers = values[str(weight.args[0].target)].detach() / values[str(weight.args[1].target)].reshape(-1, 1, 1, 1)
    written = numpy_helper.to_array(next(t for t in onnx.load(quantized_file).graph.initializer if t.name == "w"))
    np.testing.assert_allclose(integers.numpy(), written, atol=1e-4)
