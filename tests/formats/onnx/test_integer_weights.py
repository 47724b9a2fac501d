"""Integer weights: error bounds, the layout MatMulNBits reads, and a search that never loses."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from compress.formats.onnx.integer_weights import blockwise, pack, per_output, unpack

bits_of = st.sampled_from([4, 8])
weights = npst.arrays(
    np.float32,
    npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40),
    elements=st.floats(-100, 100, width=32),
)


def sqnr_db(weight, error):
    return 10 * np.log10(np.sum(weight**2) / np.sum(error**2))


@settings(max_examples=100, deadline=None)
@given(data=st.data(), bits=bits_of)
def test_law_unpack_undoes_pack(data, bits):
    shape = data.draw(npst.array_shapes(min_dims=1, max_dims=3, max_side=9))
    codes = data.draw(npst.arrays(np.uint8, shape, elements=st.integers(0, 2**bits - 1)))
    packed = pack(codes, bits)
    assert packed.dtype == np.uint8
    assert packed.shape == (*shape[:-1], -(-shape[-1] * bits // 8))
    assert np.array_equal(unpack(packed, bits, shape[-1]), codes)


def test_the_first_code_is_in_the_low_bits():
    assert pack(np.array([1, 2, 3], np.uint8), 4).tolist() == [0x21, 0x03]


@settings(max_examples=100, deadline=None)
@given(weight=weights, bits=bits_of, block=st.sampled_from([16, 32]), symmetric=st.booleans())
def test_law_blocks_keep_every_weight_within_one_step(weight, bits, block, symmetric):
    blocks = blockwise(weight, bits=bits, block_size=block, symmetric=symmetric, search=False)
    inputs = weight.shape[1]
    assert blocks.codes.shape == (len(weight), -(-inputs // block), block)
    assert blocks.codes.max() < 2**bits
    step = np.repeat(np.abs(blocks.scales), block, axis=1)[:, :inputs]
    # Half a step where nothing clips; the far side of a symmetric block clips by up to one (+8 becomes +7).
    assert np.all(np.abs(blocks.weights(inputs) - weight) <= (1.001 if symmetric else 1.0) * step + 1e-30)
    padding = blocks.codes.reshape(len(weight), -1)[:, inputs:]
    assert np.array_equal(padding, np.repeat(blocks.zero_points, block, axis=1)[:, inputs:])
    if symmetric:
        assert np.all(blocks.zero_points == 2 ** (bits - 1))


@settings(max_examples=60, deadline=None)
@given(weight=weights, bits=bits_of, symmetric=st.booleans())
def test_law_the_search_is_never_worse_than_min_max(weight, bits, symmetric):
    def error(search):
        blocks = blockwise(weight, bits=bits, block_size=16, symmetric=symmetric, search=search)
        return float(np.square(blocks.weights(weight.shape[1]).astype(np.float64) - weight).sum())

    assert error(search=True) <= error(search=False) * (1 + 1e-5) + 1e-30


@pytest.mark.parametrize(("bits", "expected_db"), [(4, 19.8), (8, 44.2)])  # min-max: 19.4 and 43.4
def test_the_search_gains_on_weights_with_tails(bits, expected_db):
    weight = np.random.default_rng(0).laplace(size=(64, 512)).astype(np.float32)

    def quality(search):
        blocks = blockwise(weight, bits=bits, block_size=32, symmetric=True, search=search)
        return sqnr_db(weight, blocks.weights(512) - weight)

    assert quality(search=True) > quality(search=False) + 0.3
    assert quality(search=True) == pytest.approx(expected_db, abs=0.2)


@settings(max_examples=100, deadline=None)
@given(weight=weights, limit=st.sampled_from([64, 127]), shared=st.booleans())
def test_law_per_output_codes_are_within_half_a_step(weight, limit, shared):
    made = per_output(weight, limit=limit, shared=shared)
    assert made.codes.dtype == np.int8
    assert made.scales.shape == (() if shared else (len(weight),))
    assert np.abs(made.codes.astype(int)).max() <= limit
    scale = made.scales if shared else made.scales[:, None]
    assert np.all(np.abs(made.codes * scale - weight) <= 0.5001 * scale)


def test_rows_of_zeros_stay_zeros_and_have_a_usable_scale():
    weight = np.zeros((2, 32), np.float32)
    assert per_output(weight).scales.tolist() == [1, 1]
    for symmetric in (True, False):
        blocks = blockwise(weight, bits=4, block_size=16, symmetric=symmetric)
        assert np.all(blocks.weights(32) == 0)
        assert np.all(np.isfinite(blocks.scales))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("inputs", [64, 100, 20])  # whole blocks, a part of one, fewer than one
def test_onnx_runtime_reads_the_same_numbers(bits, symmetric, inputs):
    rng = np.random.default_rng(inputs)
    weight, x = rng.normal(size=(12, inputs)).astype(np.float32), rng.normal(size=(5, inputs)).astype(np.float32)
    blocks = blockwise(weight, bits=bits, block_size=32, symmetric=symmetric)
    arrays = {"B": pack(blocks.codes, bits), "scales": blocks.scales.reshape(-1)}
    if not symmetric:
        arrays["zero_points"] = pack(blocks.zero_points, bits).reshape(-1)
    node = onnx.helper.make_node(
        "MatMulNBits", ["x", *arrays], ["y"], domain="com.microsoft", K=inputs, N=12, bits=bits, block_size=32
    )
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [info("x", 1, [5, inputs])],
        [info("y", 1, [5, 12])],
        [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    file = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    y = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    np.testing.assert_allclose(y, x @ blocks.weights(inputs).T, rtol=1e-4, atol=1e-4)
