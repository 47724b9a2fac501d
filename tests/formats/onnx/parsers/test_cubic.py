"""Cubic interpolation as a matrix, against ONNX Runtime's Resize."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import images, parse, run
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.core.errors import StageError
from compress.formats.onnx.parsers.cubic import cubic_weights
from compress.formats.onnx.parsers.fit import fit
from compress.formats.onnx.parsers.table import load_parser

MODES = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]


@settings(max_examples=40, deadline=None)
@given(
    before=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    after=st.tuples(st.integers(1, 15), st.integers(1, 15)),
    mode=st.sampled_from(MODES),
    a=st.sampled_from([-0.75, -0.5]),
    outside=st.booleans(),
)
def test_sizes(before, after, mode, a, outside):
    model = parse(
        f'y = Resize<mode="cubic", coordinate_transformation_mode="{mode}", cubic_coeff_a={a}, '
        f"exclude_outside={int(outside)}>(x, , , s)",
        x=f"float[2,3,{before[0]},{before[1]}]",
        initializers=f"int64[4] s = {{2, 3, {after[0]}, {after[1]}}}",
    )
    x = images((2, 3, *before))
    expected = run(model, x)
    fit(model, load_parser("tensorrt_8_2"), "the board")
    assert [node.op_type for node in model.graph] == ["MatMul", "MatMul"]
    np.testing.assert_allclose(run(model, x), expected, rtol=0, atol=1e-5 * np.abs(x).max())


@settings(max_examples=20, deadline=None)
@given(scale=st.sampled_from([2.0, 3.0, 1.3, 0.5]), mode=st.sampled_from(["half_pixel", "asymmetric"]))
def test_scales(scale, mode):
    model = parse(
        f'y = Resize<mode="cubic", coordinate_transformation_mode="{mode}">(x, , s)',
        initializers=f"float[4] s = {{1.0, 1.0, {scale}, {scale}}}",
    )
    x = images()
    expected = run(model, x)
    fit(model, load_parser("tensorrt_8_2"), "the board")
    np.testing.assert_allclose(run(model, x), expected, rtol=0, atol=1e-5 * np.abs(x).max())


def test_rows_sum_to_one_and_the_same_size_changes_nothing():
    np.testing.assert_allclose(cubic_weights(8, 21).sum(axis=1), 1)
    np.testing.assert_allclose(cubic_weights(8, 8), np.eye(8), atol=1e-12)


def test_newer_parsers_keep_the_operator():
    model = parse('y = Resize<mode="cubic">(x, , s)', initializers="float[4] s = {1.0, 1.0, 2.0, 2.0}")
    assert fit(model, load_parser("tensorrt_8_5"), "the board") == ()


def test_channels_are_not_resized_so():
    model = parse('y = Resize<mode="cubic">(x, , , s)', initializers="int64[4] s = {2, 8, 6, 6}")
    with pytest.raises(StageError, match="cubic on more than the last two dimensions"):
        fit(model, load_parser("tensorrt_8_2"), "the board")
