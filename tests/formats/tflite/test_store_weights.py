"""Float files with smaller weights: half the bytes or a quarter, and the interpreter computes nearly the same."""

from __future__ import annotations

import numpy as np
import pytest

from compress.formats.tflite.flatbuffer import pack
from compress.formats.tflite.legalize import legalize
from compress.formats.tflite.network import parse_network
from compress.formats.tflite.weights import store_weights


@pytest.fixture
def matrix(build):
    values = np.random.default_rng(0).standard_normal((32, 64)).astype(np.float32)
    given, taken = build.tensor([1, 64], kind="FLOAT32"), build.tensor([1, 32], kind="FLOAT32")
    weight = build.tensor(values.shape, kind="FLOAT32", constant=values)
    bias = build.tensor([32], kind="FLOAT32", constant=np.ones(32, np.float32))
    build.operator("FULLY_CONNECTED", 1, [given, weight, bias], [taken], "FullyConnectedOptions")
    return build.interface(given, taken)


@pytest.mark.parametrize(("kind", "share", "db"), [("float32", 1.0, 200), ("float16", 0.5, 60), ("int8", 0.25, 30)])
def test_size_and_error(matrix, kind, share, db, run_bytes):
    x = np.random.default_rng(1).standard_normal((1, 64)).astype(np.float32)
    before = pack(matrix)
    exact = run_bytes(before, x)
    store_weights(matrix, kind)
    legalize(matrix)
    after = pack(matrix)
    error = run_bytes(after, x) - exact
    assert 10 * np.log10((exact**2).sum() / max(float((error**2).sum()), 1e-30)) >= db
    # beside the 8 KiB of weights there are one bias and a kilobyte of tables
    assert len(after) - len(before) == pytest.approx((share - 1) * 8192, abs=600)


def test_half_precision_is_read_through_a_conversion(matrix):
    store_weights(matrix, "float16")
    legalize(matrix)
    first, second = parse_network(pack(matrix)).operators
    assert (first.kind, first.version, first.inputs[0].dtype) == ("DEQUANTIZE", 3, "float16")
    assert second.inputs[1].index == first.outputs[0].index


def test_dynamic_range_has_one_scale_for_a_matrix_and_one_for_each_filter(build, matrix):
    filters = np.random.default_rng(2).standard_normal((16, 3, 3, 8)).astype(np.float32) * np.arange(1, 17).reshape(
        -1, 1, 1, 1
    )
    given, taken = build.tensor([1, 5, 5, 8], kind="FLOAT32"), build.tensor([1, 3, 3, 16], kind="FLOAT32")
    weight = build.tensor(filters.shape, kind="FLOAT32", constant=filters.astype(np.float32))
    bias = build.tensor([16], kind="FLOAT32", constant=np.zeros(16, np.float32))
    options = {"strideW": 1, "strideH": 1, "padding": 1, "dilationWFactor": 1, "dilationHFactor": 1}
    build.operator("CONV_2D", 1, [given, weight, bias], [taken], "Conv2DOptions", **options)
    build.graph.inputs, build.graph.outputs = [*build.graph.inputs, given], [*build.graph.outputs, taken]
    store_weights(matrix, "int8")
    legalize(matrix)
    dense, conv = parse_network(pack(matrix)).operators
    assert (dense.version, len(dense.inputs[1].quantization.scale)) == (3, 1)
    assert (conv.version, len(conv.inputs[1].quantization.scale)) == (5, 16)
    assert conv.inputs[2].dtype == "float32"
    scale = np.array(conv.inputs[1].quantization.scale, np.float32).reshape(-1, 1, 1, 1)
    assert float(np.abs(conv.inputs[1].constant * scale - filters).max()) <= float(scale.max()) / 2 * 1.001
