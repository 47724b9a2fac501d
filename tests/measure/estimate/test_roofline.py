import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.config.schema import load_target
from compress.core.artifact import Precision
from compress.formats.onnx.layers import read_layers
from compress.measure.estimate.roofline import BAND, estimate
from compress.measure.unmeasured import NotMeasured

PI = load_target("raspberry_pi_4", [])


def network(path, *, width=16, groups=1, quantized=False):
    """Conv 3x3 [width, 8 / groups] on 8x10x10, Relu, Conv 1x1, global pool."""
    weights = {
        "w": np.ones((width, 8 // groups, 3, 3), np.int8 if quantized else np.float32),
        "v": np.ones((4, width, 1, 1), np.float32),
    }
    nodes = []
    if quantized:
        weights |= {"s": np.float32(0.1), "z": np.int8(0)}
        nodes.append(helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wf"]))
    first = "wf" if quantized else "w"
    nodes += [
        helper.make_node("Conv", ["input", first], ["a"], "first", pads=[1] * 4, group=groups, kernel_shape=[3, 3]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "v"], ["c"], "second", kernel_shape=[1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["d"], "pool"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 8, 10, 10])],
        [helper.make_tensor_value_info("d", TensorProto.FLOAT, [1, 4, 1, 1])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def test_operations_and_bytes_of_every_layer(tmp_path):
    first, second, pool = read_layers(network(tmp_path / "n.onnx"))
    assert (first.kind, first.operations) == ("winograd", 2 * 16 * 8 * 9 * 100)
    assert (first.weight_bytes, first.elements) == (16 * 8 * 9 * 4, 8 * 100 + 16 * 100)
    assert (second.kind, second.operations) == ("dense", 2 * 4 * 16 * 100)
    assert (pool.kind, pool.elements) == ("elementwise", 4 * 100 + 4)


def test_depthwise_layers_are_told_apart(tmp_path):
    first = read_layers(network(tmp_path / "n.onnx", width=8, groups=8))[0]
    assert (first.kind, first.operations) == ("depthwise", 2 * 8 * 9 * 100)


def test_quantized_weights_count_as_stored(tmp_path):
    first = read_layers(network(tmp_path / "n.onnx", quantized=True))[0]
    assert first.weight_bytes == 16 * 8 * 9


def test_an_estimate_is_the_sum_of_its_layers_and_has_a_band(tmp_path):
    guess = estimate("net", read_layers(network(tmp_path / "n.onnx")), Precision.FP32, PI)
    assert guess.ms == pytest.approx(sum(layer.ms for layer in guess.layers))
    assert (guess.low_ms, guess.high_ms) == pytest.approx((guess.ms / BAND, guess.ms * BAND))
    assert guess.threads == 4
    assert guess.basis == "roofline of Raspberry Pi 4, not calibrated"


def test_more_work_takes_longer_and_int8_less(tmp_path):
    small, large = network(tmp_path / "s.onnx"), network(tmp_path / "l.onnx", width=64)
    assert (
        estimate("s", read_layers(small), Precision.FP32, PI).ms
        < estimate("l", read_layers(large), Precision.FP32, PI).ms
    )
    assert (
        estimate("l", read_layers(large), Precision.INT8, PI).ms
        < estimate("l", read_layers(large), Precision.FP32, PI).ms
    )


def test_a_calibration_scales_the_estimate(tmp_path):
    path = network(tmp_path / "n.onnx")
    plain = estimate("n", read_layers(path), Precision.FP32, PI)
    scaled = estimate("n", read_layers(path), Precision.FP32, PI, factor=1.5, band=1.2, basis="measured")
    assert scaled.ms == pytest.approx(1.5 * plain.ms)
    assert (scaled.high_ms, scaled.basis) == (pytest.approx(1.2 * scaled.ms), "measured")


def test_a_precision_without_a_stated_peak_is_not_estimated(tmp_path):
    with pytest.raises(NotMeasured, match="Raspberry Pi 4 states no fp16 peak"):
        estimate("n", read_layers(network(tmp_path / "n.onnx")), Precision.FP16, PI)
