"""What `int8` stands for: the share of arithmetic and weights that are integers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from compress.core.measurement import IntegerShare
from compress.formats.integers import LayerWork, integer_share
from compress.formats.onnx.integers import onnx_integers
from compress.formats.onnx.macs import onnx_macs
from compress.measure.unmeasured import NotMeasured


def graph(body: str, constants: dict[str, np.ndarray], inputs: str, output: str) -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => ({output}) {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in constants.items())
    return proto


QUANTIZED = {
    "s": np.float32(0.1),
    "z": np.uint8(0),
    "w": np.ones((4, 2, 3, 3), np.int8),
    "t": np.float32(0.1),
    "o": np.int8(0),
}


def test_a_layer_counts_where_both_operands_were_integers():
    """The convolution has 4 x 4 x 4 outputs of 18 products, the Gemm 64 x 10."""
    body = (
        "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) v = DequantizeLinear(w, t, o) "
        "c = Conv(d, v) f = Flatten(c) y = Gemm(f, g)"
    )
    model = graph(body, {**QUANTIZED, "g": np.ones((64, 10), np.float32)}, "float[1,2,6,6] x", "float[1,10] y")
    share = onnx_integers(model)
    assert share.macs == pytest.approx(1152 / (1152 + 640))
    assert share.weights == pytest.approx(72 / (72 + 640))
    assert share.mostly


def test_integers_in_storage_alone_are_no_integer_arithmetic():
    body = "v = DequantizeLinear(w, t, o) y = Conv(x, v)"
    share = onnx_integers(graph(body, QUANTIZED, "float[1,2,6,6] x", "float[1,4,4,4] y"))
    assert share == IntegerShare(0.0, 1.0)
    assert not share.mostly


def test_a_recurrent_layer_in_float_outweighs_an_integer_one():
    """5 steps of 4 gates x 3 units over 2 inputs and 3 states, then 3 x 4 products."""
    body = (
        "p = Transpose<perm = [1, 0, 2]>(x) h, last = LSTM<hidden_size = 3>(p, i, r) "
        "k = Squeeze(last) e = Unsqueeze(k, axes) "
        "q = QuantizeLinear(e, s, z) d = DequantizeLinear(q, s, z) v = DequantizeLinear(m, t, o) y = MatMul(d, v)"
    )
    constants = {name: QUANTIZED[name] for name in ("s", "z", "t", "o")} | {
        "i": np.ones((1, 12, 2), np.float32),
        "r": np.ones((1, 12, 3), np.float32),
        "m": np.ones((3, 4), np.int8),
        "axes": np.array([0]),
    }
    model = graph(body, constants, "float[1,5,2] x", "float[1,4] y")
    assert onnx_macs(model) == 5 * (24 + 36) + 12
    share = onnx_integers(model)
    assert share.macs == pytest.approx(12 / 312)
    assert share.weights == pytest.approx(12 / 72)
    assert not share.mostly


def test_nothing_to_share():
    with pytest.raises(NotMeasured, match="no layer with weights"):
        integer_share([], weights=0, integer_weights=0)
    assert integer_share([LayerWork(5, True)], weights=0, integer_weights=0) == IntegerShare(1.0, None)
