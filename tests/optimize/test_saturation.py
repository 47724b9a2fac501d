"""Activations are removed exactly where QuantizeLinear stores the same integers without them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from hypothesis import given, settings
from hypothesis import strategies as st
from text_graphs import graph, kinds, run

from compress.optimize.saturation import drop_saturated_activations

RANGES = {"uint8": (0, 255), "int8": (-128, 127)}


def activated(activation: str, scale: float, zero_point: int, width: str, low=0.0, high=6.0, tail=""):
    body = f"a = {activation} q = QuantizeLinear(a, s, z) y = DequantizeLinear(q, s, z) {tail}"
    constants = (
        f"float s = {{{scale!r}}}, {width} z = {{{zero_point}}}, float low = {{{low!r}}}, float high = {{{high!r}}}"
    )
    return graph(body, constants, x="float[64]", y="float[64]")


def dropped(model):
    rewritten = ir.serde.deserialize_model(model)
    drop_saturated_activations(rewritten)
    return ir.serde.serialize_model(rewritten)


def removed(activation: str, *settings, **more) -> bool:
    return kinds(dropped(activated(activation, *settings, **more))) == ["QuantizeLinear", "DequantizeLinear"]


def test_relu_goes_where_zero_is_the_least_integer():
    assert removed("Relu(x)", 0.02, 0, "uint8")
    assert removed("Relu(x)", 0.02, -128, "int8")
    assert not removed("Relu(x)", 0.02, 1, "uint8"), "-0.02 would be stored as 0 instead of 1"
    assert not removed("Relu(x)", 0.02, 0, "int8"), "symmetric, as TensorRT wants it"


def test_clip_goes_where_both_ends_saturate():
    clip = "Clip(x, low, high)"
    assert removed(clip, 6 / 255, 0, "uint8")
    assert removed(clip, 0.02, 0, "uint8")
    assert not removed(clip, 0.03, 0, "uint8"), "6 is stored as 200, and 7 would be stored as 233"
    assert removed("Clip(x, low)", 0.03, 0, "uint8")
    assert not removed("Clip(x,, high)", 0.02, 1, "uint8", high=5.0)


@settings(max_examples=40, deadline=None)
@given(
    scale=st.floats(2**-10, 2**-4, width=32),
    width=st.sampled_from(["uint8", "int8"]),
    data=st.data(),
    low=st.floats(-8, 0, width=32),
    high=st.floats(0, 8, width=32),
)
def test_what_is_stored_never_changes(scale, width, data, low, high):
    least, largest = RANGES[width]
    zero_point = data.draw(st.integers(least, largest) | st.just(least))
    model = activated("Clip(x, low, high)", scale, zero_point, width, low, high)
    steps = (np.arange(64) - 32) * scale * 8
    x = np.concatenate([steps[:56], np.array([low, high, np.nextafter(high, 9), 1e4, -1e4, 0, scale / 2, -scale / 2])])
    x = x.astype(np.float32)
    np.testing.assert_array_equal(run(dropped(model), x), run(model, x))


def test_an_activation_that_others_read_stays():
    body = "a = Relu(x) q = QuantizeLinear(a, s, z) d = DequantizeLinear(q, s, z) y = Add(a, d)"
    model = graph(body, "float s = {0.02}, uint8 z = {0}", x="float[4]", y="float[4]")
    assert kinds(dropped(model)) == kinds(model)
    body = "y = Relu(x) q = QuantizeLinear(y, s, z) d = DequantizeLinear(q, s, z)"
    model = graph(body, "float s = {0.02}, uint8 z = {0}", x="float[4]", y="float[4]")
    assert "Relu" in kinds(dropped(model)), "it is the output"


def test_limits_and_scales_that_are_computed_say_nothing():
    body = "t = Abs(s) a = Relu(x) q = QuantizeLinear(a, t, z) y = DequantizeLinear(q, t, z)"
    model = graph(body, "float s = {0.02}, uint8 z = {0}", x="float[4]", y="float[4]")
    assert "Relu" in kinds(dropped(model))
    body = "l = Abs(s) a = Clip(x, l) q = QuantizeLinear(a, s, z) y = DequantizeLinear(q, s, z)"
    model = graph(body, "float s = {0.02}, uint8 z = {0}", x="float[4]", y="float[4]")
    assert "Clip" in kinds(dropped(model))
