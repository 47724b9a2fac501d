"""PADV2 becomes PAD only where no code changes: any number, any grid, any window, any reader."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compress.formats.tflite.flatbuffer import pack, schema
from compress.formats.tflite.legalize import legalize
from compress.formats.tflite.network import parse_network

SHAPE = (1, 5, 5, 2)
CODES = np.random.default_rng(1).integers(-128, 128, SHAPE).astype(np.int8)
VALID, SAME = 1, 0


def padded_pool(build, *, filler, zero_point, activation, widths, window, padding, width_type=np.int32):
    """ADD with a fused activation -> PADV2 -> MAX_POOL_2D."""
    wide = [1, 5 + sum(widths), 5 + sum(widths), 2]
    if padding == VALID:
        pooled = [1, (wide[1] - window) // 2 + 1, (wide[2] - window) // 2 + 1, 2]
    else:
        pooled = [1, -(-wide[1] // 2), -(-wide[2] // 2), 2]
    image, added = build.tensor(SHAPE), build.tensor(SHAPE, zero_point=zero_point)
    zero = build.tensor([1], constant=np.array([-128], np.int8))
    build.operator("ADD", 2, [image, zero], [added], "AddOptions", fusedActivationFunction=activation)
    kind = "INT64" if width_type is np.int64 else "INT32"
    rows = build.tensor([4, 2], kind=kind, constant=np.array([[0, 0], widths, widths, [0, 0]], width_type))
    value = build.tensor([], constant=np.array([filler], np.int8), zero_point=zero_point)
    border, result = build.tensor(wide, zero_point=zero_point), build.tensor(pooled, zero_point=zero_point)
    build.operator("PADV2", 2, [added, rows, value], [border], "PadV2Options")
    sizes = {"strideW": 2, "strideH": 2, "filterWidth": window, "filterHeight": window, "padding": padding}
    build.operator("MAX_POOL_2D", 2, [border], [result], "Pool2DOptions", **sizes)
    return build.interface(image, result)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    filler=st.sampled_from([-128, -100, -31, -30, -29, 0, 2, 127]),
    zero_point=st.sampled_from([-128, -30, 0]),
    activation=st.sampled_from([0, 1, 2, 3]),
    widths=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    window=st.integers(1, 3),
    padding=st.sampled_from([VALID, SAME]),
)
def test_no_code_changes(builder, run_bytes, filler, zero_point, activation, widths, window, padding):
    arguments = {"filler": filler, "zero_point": zero_point, "activation": activation}
    model = padded_pool(builder(), **arguments, widths=widths, window=window, padding=padding)
    before = pack(model)
    legalize(model)
    np.testing.assert_array_equal(run_bytes(pack(model), CODES), run_bytes(before, CODES))


RELU = {"filler": -128, "zero_point": -30, "activation": 1, "padding": VALID}


@pytest.mark.parametrize(("widths", "kind"), [((1, 1), "PAD"), ((2, 0), "PAD"), ((3, 0), "PADV2"), ((0, 4), "PADV2")])
def test_a_window_of_padding_alone_sees_the_number(build, widths, kind):
    model = padded_pool(build, **RELU, widths=widths, window=3)
    legalize(model)
    assert parse_network(pack(model)).operators[1].kind == kind


def test_a_caller_that_sees_the_padding_sees_the_number(build):
    model = padded_pool(build, **RELU, widths=(1, 1), window=3)
    build.graph.outputs = [*build.graph.outputs, build.graph.operators[1].outputs[0]]
    legalize(model)
    assert parse_network(pack(model)).operators[1].kind == "PADV2"


def test_a_bias_that_is_left_out_is_said_to_be(build, run_bytes):
    """Two inputs are version 6, with a third that is absent it is version 4: the same numbers."""
    image, result = build.tensor([1, 6]), build.tensor([1, 2], scale=4.0, zero_point=0)
    weight = build.tensor([2, 6], constant=np.full((2, 6), 7, np.int8), zero_point=0)
    build.operator("FULLY_CONNECTED", 6, [image, weight], [result], "FullyConnectedOptions")
    model = build.interface(image, result)
    before = pack(model)
    legalize(model)
    (operator,) = parse_network(pack(model)).operators
    assert operator.version == 4
    assert list(model.subgraphs[0].operators[0].inputs)[2] == -1
    codes = CODES.reshape(-1)[:6][None]
    np.testing.assert_array_equal(run_bytes(pack(model), codes), run_bytes(before, codes))


def test_the_schema_numbers_the_windows_as_assumed_here(build):
    assert (schema().Padding.SAME, schema().Padding.VALID) == (SAME, VALID)
