"""Weights in 7 bits: what the network computes stays, and every product fits 16 bits."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from doubles import SATURATES
from onnx import TensorProto, helper, numpy_helper

from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.formats.onnx.runtime import open_session
from compress.formats.onnx.seven_bits import in_7_bits, integer_products, products_saturate
from compress.formats.parity import reference_runner

RANDOM = np.random.default_rng(0)
CODES = RANDOM.integers(-127, 128, (16, 5)).astype(np.int8)
SCALES = RANDOM.uniform(0.01, 0.02, 5).astype(np.float32)


def built(nodes, constants, *, domains=()):
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [4, 16]), ("y", [4, 5]))
    ]
    stored = [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], stored)
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def node(op, inputs, output, **attributes):
    return helper.make_node(op, inputs.split(), [output], **attributes)


def dynamic(zero_point=0):
    """Dynamic quantization as the stage writes it."""
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        node("MatMulInteger", "q w z zero", "sums"),
        node("Cast", "sums", "floats", to=TensorProto.FLOAT),
        node("Mul", "s scale", "both"),
        node("Mul", "floats both", "y"),
    ]
    return built(nodes, {"w": CODES, "scale": SCALES, "zero": np.int8(zero_point)})


def static():
    nodes = [
        node("DequantizeLinear", "w scale", "weight", axis=1),
        node("MatMul", "x weight", "y"),
    ]
    return built(nodes, {"w": CODES, "scale": SCALES})


def shared():
    """Two products read one weight, each with a scale of its own that is the same tensor."""
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        node("Mul", "s scale", "both"),
        *(node("MatMulInteger", "q w z", f"sums{n}") for n in (0, 1)),
        *(node("Cast", f"sums{n}", f"floats{n}", to=TensorProto.FLOAT) for n in (0, 1)),
        *(node("Mul", "s scale", f"both{n}") for n in (0, 1)),
        *(node("Mul", f"floats{n} both{n}", f"y{n}") for n in (0, 1)),
        node("Add", "y0 y1", "y"),
    ]
    return built(nodes, {"w": CODES, "scale": SCALES})


def exact(model, images):
    """The network with the stored integers as they are, in float64."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    scale = next(values for name, values in stored.items() if name.startswith("scale"))
    times = 2 if any(one.name == "y1" or "y1" in one.output for one in model.graph.node) else 1
    return times * images.astype(np.float64) @ (stored["w"].astype(np.float64) * scale)


@pytest.mark.parametrize("make", [dynamic, static, shared])
def test_the_copy_computes_the_same_with_weights_that_no_processor_saturates(make):
    model = make()
    copy = in_7_bits(model)
    onnx.checker.check_model(copy)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in copy.graph.initializer}
    assert np.abs(stored["w"]).max() <= 64
    images = RANDOM.standard_normal((4, 16)).astype(np.float32)
    (given,) = open_session(copy.SerializeToString(), threads=1, fused=False).run(None, {"x": images})
    want = exact(model, images)
    assert np.sum((given - want) ** 2) < 1e-3 * np.sum(want**2)
    assert numpy_helper.to_array(model.graph.initializer[0]).tolist() == CODES.tolist()  # the model stays


def test_weights_that_are_not_symmetric_stay_as_they_are():
    stored = {one.name: numpy_helper.to_array(one) for one in in_7_bits(dynamic(zero_point=3)).graph.initializer}
    assert stored["w"].tolist() == CODES.tolist()
    assert not any("doubled" in name for name in stored)


def test_only_operators_on_integers_are_products_of_integers():
    assert integer_products(dynamic())
    assert not integer_products(static())


def test_the_processor_is_asked():
    assert products_saturate() is SATURATES


@pytest.mark.parametrize("saturates", [True, False])
def test_a_file_of_integer_products_is_compared_as_a_processor_computes_that_does_not_saturate(
    tmp_path, monkeypatch, saturates
):
    if not saturates and SATURATES:
        pytest.skip("8-bit products saturate on this processor")
    monkeypatch.setattr("compress.formats.onnx.seven_bits.products_saturate", lambda: saturates)
    onnx.save(dynamic(), tmp_path / "net.onnx")
    artifact = Artifact(
        Format.ONNX, tmp_path / "net.onnx", Precision.INT8, InputSpec((1, 4, 4), "gray", (0.5,), (0.5,))
    )
    images = np.abs(RANDOM.standard_normal((4, 16))).astype(np.float32)
    given, want = reference_runner(artifact)(images), exact(dynamic(), images)
    assert np.sum((given - want) ** 2) < 1e-3 * np.sum(want**2)
