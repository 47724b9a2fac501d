"""Zero padding in front of a quantized convolution becomes a part of it, with the same numbers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from compress.formats.onnx.tidy import tidy

PAIR = "q = QuantizeLinear(p, s, z)\n d = DequantizeLinear(q, s, z)\n"
FIRST = "i = QuantizeLinear(x, s, z)\n r = DequantizeLinear(i, s, z)\n"
CONSTANTS = "float s = {0.05}, uint8 z = {100}, float c = {0}, int64[8] e = {0,0,0,0,0,0,1,1}"


def graph(body: str, constants: str = CONSTANTS, result: str = "float[1,2,3,3] y") -> onnx.ModelProto:
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    g (float[1,2,6,6] x) => ({result}) <{constants}> {{ {body} }}"""
    proto = onnx.parser.parse_model(text)
    weights = np.random.default_rng(0).normal(size=(2, 2, 3, 3)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    return proto


def tidied(proto: onnx.ModelProto) -> onnx.ModelProto:
    model = ir.serde.deserialize_model(proto)
    tidy(model)
    return ir.serde.serialize_model(model)


def operators(proto: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in proto.graph.node)


def outputs(proto: onnx.ModelProto) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(1).uniform(-4, 7, (1, 2, 6, 6)).astype(np.float32)
    return session.run(None, {"x": image})[0]


CONV = "y = Conv<strides=[2,2]>(d, w)"


@pytest.mark.parametrize(
    ("body", "pairs"),
    [
        pytest.param(f"p = Pad(x, e, c)\n {PAIR} {CONV}", 1, id="of the float input"),
        pytest.param(f"{FIRST} p = Pad(r, e, c)\n {PAIR} {CONV}", 1, id="of integers of the same grid"),
        pytest.param(f"{FIRST.replace('s, z', 't, z')} p = Pad(r, e)\n {PAIR} {CONV}", 2, id="of another grid"),
        pytest.param(f"p = Pad(x, e, c)\n {PAIR} a = Conv<strides=[2,2]>(d, w)\n b = Conv<strides=[2,2]>(d, w)\n"
                     " n = Neg(b)\n y = Add(a, n)", 1, id="for two convolutions"),
    ],
)  # fmt: skip
def test_padding_moves_into_the_convolution(body, pairs):
    proto = graph(body, CONSTANTS + ", float t = {0.04}")
    made = tidied(proto)
    assert operators(made)["Pad"] == 0
    assert operators(made)["QuantizeLinear"] == operators(made)["DequantizeLinear"] == pairs
    pads = [list(a.ints) for node in made.graph.node for a in node.attribute if a.name == "pads"]
    assert pads == [[0, 0, 1, 1]] * operators(made)["Conv"]
    np.testing.assert_array_equal(outputs(made), outputs(proto))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(f"p = Pad(x, e, o)\n {PAIR} {CONV}", id="ones instead of zeros"),
        pytest.param(f'p = Pad<mode="reflect">(x, e)\n {PAIR} {CONV}', id="reflected"),
        pytest.param(f"p = Pad(x, e, c)\n {PAIR} a = {CONV[4:]}\n m = MaxPool<kernel_shape=[3,3],strides=[2,2]>(d)\n"
                     " y = Add(a, m)", id="a pooling reads it, too"),
        pytest.param(f"p = Pad(x, e, c)\n {PAIR} a = {CONV[4:]}\n m = MaxPool<kernel_shape=[3,3],strides=[2,2]>(p)\n"
                     " y = Add(a, m)", id="a float operator reads it, too"),
    ],
)  # fmt: skip
def test_what_is_not_the_same_stays(body):
    proto = graph(body, CONSTANTS + ", float o = {1}")
    made = tidied(proto)
    assert operators(made)["Pad"] == 1
    np.testing.assert_array_equal(outputs(made), outputs(proto))
