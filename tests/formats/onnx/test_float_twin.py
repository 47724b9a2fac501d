"""The float network inside a Q/DQ file, and its scales as TensorRT's calibration cache."""

from __future__ import annotations

import struct

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.formats.onnx.calibration_cache import calibration_cache, tensor_scales
from compress.formats.onnx.float_twin import float_twin

SCALES = {"input": 0.05, "relu": 0.125, "flat": 0.03125}


def quantized(*, per_channel=True, output_pair=False):
    """input -Q/DQ-> Conv -> Relu -Q/DQ-> MaxPool -> Flatten -Q/DQ-> Gemm, weights int8."""
    random = np.random.default_rng(0)
    codes = {"w": random.integers(-127, 128, (4, 3, 3, 3)), "g": random.integers(-127, 128, (2, 64))}
    stored = [numpy_helper.from_array(value.astype(np.int8), name) for name, value in codes.items()]
    weight_scale = np.array([0.01, 0.02, 0.03, 0.04], np.float32) if per_channel else np.float32(0.01)
    stored.append(numpy_helper.from_array(np.asarray(weight_scale), "w_scale"))
    stored.append(numpy_helper.from_array(np.asarray(0.005, np.float32), "g_scale"))
    stored.append(numpy_helper.from_array(np.asarray(0, np.int8), "zero"))
    stored.append(numpy_helper.from_array(np.zeros(4, np.int8), "zeros"))
    stored += [numpy_helper.from_array(np.asarray(scale, np.float32), f"{name}_s") for name, scale in SCALES.items()]

    def pair(name):
        return [
            helper.make_node("QuantizeLinear", [name, f"{name}_s", "zero"], [f"{name}_q"]),
            helper.make_node("DequantizeLinear", [f"{name}_q", f"{name}_s", "zero"], [f"{name}_dq"]),
        ]

    zero = "zeros" if per_channel else "zero"
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "w_scale", zero], ["w_dq"], axis=0),
        helper.make_node("DequantizeLinear", ["g", "g_scale", "zero"], ["g_dq"]),
        *pair("input"),
        helper.make_node("Conv", ["input_dq", "w_dq"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        *pair("relu"),
        helper.make_node("MaxPool", ["relu_dq"], ["pool"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        *pair("flat"),
        helper.make_node("Gemm", ["flat_dq", "g_dq"], ["logits"], transB=1),
    ]
    output = "logits"
    if output_pair:
        stored.append(numpy_helper.from_array(np.asarray(1.0, np.float32), "logits_s"))
        nodes += pair("logits")
        output = "logits_dq"
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [1, 2])],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model, images):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": images})[0]


def by_hand(images):
    """The twin's arithmetic with onnx's weights dequantized by numpy."""
    import torch
    from torch.nn import functional as F

    model = quantized()
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    weight = torch.from_numpy(stored["w"] * stored["w_scale"][:, None, None, None])
    hidden = F.max_pool2d(F.relu(F.conv2d(torch.from_numpy(images), weight, padding=1)), 2)
    return (hidden.flatten(1) @ torch.from_numpy(stored["g"] * stored["g_scale"]).T).numpy()


IMAGES = np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)


def test_the_twin_has_no_quantizers_and_the_same_weights():
    twin = float_twin(quantized())
    onnx.checker.check_model(twin, full_check=True)
    assert [node.op_type for node in twin.graph.node] == ["Conv", "Relu", "MaxPool", "Flatten", "Gemm"]
    assert {tensor.name for tensor in twin.graph.initializer} == {"w_dq", "g_dq"}
    np.testing.assert_allclose(run(twin, IMAGES), by_hand(IMAGES), rtol=1e-5, atol=1e-4)


def test_one_scale_per_tensor_and_a_pair_before_the_output():
    model = quantized(per_channel=False, output_pair=True)
    twin = float_twin(model)
    assert "QuantizeLinear" not in {node.op_type for node in twin.graph.node}
    assert twin.graph.output[0].name == "logits_dq"
    assert run(twin, IMAGES).shape == (1, 2)


def test_what_is_to_be_kept_stays_quantized():
    twin = float_twin(quantized(), keep=("flat_q", "g"))
    kinds = [node.op_type for node in twin.graph.node]
    assert kinds.count("QuantizeLinear") == 1
    assert kinds.count("DequantizeLinear") == 2
    onnx.checker.check_model(twin, full_check=True)


def test_the_original_is_left_alone():
    model = quantized()
    before = model.SerializeToString()
    float_twin(model)
    assert model.SerializeToString() == before


def test_scales_are_named_as_in_the_twin_and_spread_over_what_shares_them():
    scales = tensor_scales(quantized())
    assert scales == pytest.approx({**SCALES, "conv": SCALES["relu"], "pool": SCALES["relu"]})
    twin = float_twin(quantized())
    names = {"input"} | {name for node in twin.graph.node for name in node.output}
    assert set(scales) <= names


def test_the_cache_has_tensorrts_form():
    text = calibration_cache(quantized(), "8.5.2")
    lines = text.splitlines()
    assert lines[0] == "TRT-8502-EntropyCalibration2"
    assert f"input: {struct.pack('>f', SCALES['input']).hex()}" in lines
    assert len(lines) == 1 + len(tensor_scales(quantized()))
    assert calibration_cache(quantized(), "10.3.0").startswith("TRT-100300-")
