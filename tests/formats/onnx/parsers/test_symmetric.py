"""Q/DQ files that others made, for parsers that read int8 around zero only."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from graphs import images, parse, run
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.core.errors import StageError
from compress.formats.onnx.parsers.fit import fit
from compress.formats.onnx.parsers.table import load_parser

TABLES = ["tensorrt_8_2", "tensorrt_8_5", "tensorrt_10_3"]
PAIR = "q = QuantizeLinear(x, s, z)\n y = DequantizeLinear(q, s, z)"


def fitted(model: ir.Model, name: str = "tensorrt_8_5") -> tuple[str, ...]:
    notes = fit(model, load_parser(name), "the board")
    for node in model.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            points = ir.convenience.get_const_tensor(node.inputs[2])
            assert points.dtype is ir.DataType.INT8
            assert not points.numpy().any()
    return notes


@pytest.mark.parametrize("name", TABLES)
def test_unsigned_codes_around_128_move_and_nothing_changes(name):
    model = parse(PAIR, initializers="float s = {0.03} uint8 z = {128}")
    x = images()
    expected = run(model, x)
    (note,) = fitted(model, name)
    assert "requantized" not in note
    np.testing.assert_array_equal(run(model, x), expected)


@pytest.mark.parametrize("name", TABLES)
def test_unsigned_weights_around_128_move_and_nothing_changes(name):
    codes = np.random.default_rng(1).integers(0, 256, (6, 5))
    model = parse(
        "w = DequantizeLinear<axis=1>(c, s, z)\n y = MatMul(x, w)",
        initializers=f"uint8[6,5] c = {{{', '.join(map(str, codes.ravel()))}}} "
        "float[5] s = {0.1, 0.2, 0.3, 0.4, 0.5} uint8[5] z = {128, 128, 128, 128, 128}",
    )
    x = images()
    expected = run(model, x)
    assert "requantized" not in " ".join(fitted(model, name))
    np.testing.assert_allclose(run(model, x), expected, rtol=1e-6, atol=1e-5)
    stored = next(value.const_value.numpy() for node in model.graph for value in node.inputs[:1] if value.const_value)
    np.testing.assert_array_equal(stored, codes - 128)


def test_a_missing_zero_point_is_written_out():
    body = "w = DequantizeLinear(c, s)\n y = MatMul(x, w)"
    model = parse(body, initializers="int8[6,1] c = {1, -2, 3, -4, 5, -128} float s = {0.1}")
    x = images()
    expected = run(model, x)
    fitted(model)
    np.testing.assert_array_equal(run(model, x), expected)


def test_integer_biases_become_what_they_stand_for():
    body = "b = DequantizeLinear<axis=0>(c, s, z)\n y = Add(x, b)"
    model = parse(
        body,
        initializers="int32[6] c = {100, -200, 300, 4, 5, 6} float[6] s = {0.1, 0.2, 0.1, 1.0, 1.0, 1.0} "
        "int32[6] z = {0, 0, 0, 0, 0, 0}",
    )
    x = images()
    expected = run(model, x)
    fitted(model)
    assert [node.op_type for node in model.graph] == ["Add"]
    np.testing.assert_allclose(run(model, x), expected, rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(point=st.integers(0, 255), signed=st.booleans(), scale=st.floats(0.01, 0.1), seed=st.integers(0, 9))
def test_any_zero_point_keeps_its_range_and_rounds_to_the_wider_step(point, signed, scale, seed):
    """The law of requantizing: values clipped as before, then at most half a step from them."""
    lowest = -128 if signed else 0
    point = point + lowest
    kind = "int8" if signed else "uint8"
    model = parse(PAIR, initializers=f"float s = {{{scale}}} {kind} z = {{{point}}}")
    x = images(seed=seed)
    fitted(model)
    step = scale
    if point - lowest != 128:
        step *= max(point - lowest, 255 + lowest - point) / 127
    limits = ((lowest - point) * np.float32(scale), (lowest + 255 - point) * np.float32(scale))
    error = np.abs(run(model, x) - x.clip(*limits)).max()
    assert error <= 0.5 * step * 1.001 + 1e-5


def test_a_range_that_stands_for_relu_stays_one():
    model = parse(PAIR, initializers="float s = {0.03} uint8 z = {0}")
    x = images()
    notes = fitted(model)
    assert [node.op_type for node in model.graph] == ["Relu", "QuantizeLinear", "DequantizeLinear"]
    assert notes[-1] == (
        "1 tensors requantized with steps up to 2.01 times as wide, because TensorRT 8.5 reads zero point 0 only"
    )
    assert run(model, x).min() == 0
    assert not any(node.metadata_props for node in model.graph)


def test_codes_may_pass_through_what_only_moves_them():
    body = (
        "q = QuantizeLinear(x, s, z)\n m = MaxPool<kernel_shape=[2,2]>(q)\n f = Flatten(m)\n "
        "a = DequantizeLinear(f, s, z)\n y = Relu(a)"
    )
    model = parse(body, initializers="float s = {0.03} uint8 z = {128}")
    x = images()
    expected = run(model, x)
    fitted(model)
    np.testing.assert_array_equal(run(model, x), expected)


@pytest.mark.parametrize(
    ("body", "initializers", "message"),
    [
        (
            "q = QuantizeLinear(x, s, z)\n a = DequantizeLinear(q, s, o)\n y = Relu(a)",
            "float s = {0.1} uint8 z = {128} uint8 o = {127}",
            "read with another zero point",
        ),
        (
            "q = QuantizeLinear(x, s, z)\n c = Concat<axis=1>(q, q)\n y = DequantizeLinear(c, s, z)",
            "float s = {0.1} uint8 z = {128}",
            "its codes go into Concat",
        ),
        (
            "q = QuantizeLinear<axis=1>(x, s, z)\n y = DequantizeLinear<axis=1>(q, s, z)",
            "float[4] s = {0.1, 0.1, 0.1, 0.1} uint8[4] z = {1, 2, 3, 4}",
            "one for each channel of an activation",
        ),
        (
            "d = ReduceMax<keepdims=0>(x)\n q = QuantizeLinear(x, d, z)\n y = DequantizeLinear(q, d, z)",
            "uint8 z = {128}",
            "computed at run time",
        ),
    ],
)
def test_what_cannot_be_told_is_refused(body, initializers, message):
    with pytest.raises(StageError, match=message):
        fitted(parse(body, initializers=initializers))


def test_onnxruntime_reads_it_as_it_is():
    model = parse(PAIR, initializers="float s = {0.03} uint8 z = {7}")
    assert fit(model, load_parser("onnxruntime_1_31"), "the board") == ()
