"""The legaliser: fewer and older operators, the same numbers out of the interpreter."""

from __future__ import annotations

import numpy as np
import pytest

from compress.formats.tflite.flatbuffer import pack
from compress.formats.tflite.legalize import legalize
from compress.formats.tflite.network import parse_network

CODES = np.random.default_rng(0).integers(-128, 128, (1, 4, 4, 6)).astype(np.int8)


def legalized(model):
    before = pack(model)
    legalize(model)
    return before, pack(model)


def versions(content):
    return [(operator.kind, operator.version) for operator in parse_network(content).operators]


def padded(build, filler, *, activation=0, zero_point=-128):
    """ADD (with a fused activation) -> PADV2 -> MAX_POOL_2D."""
    given, added = build.tensor(CODES.shape), build.tensor(CODES.shape, zero_point=zero_point)
    zero = build.tensor([1], constant=np.array([-128], np.int8))
    build.operator("ADD", 3, [given, zero], [added], "AddOptions", fusedActivationFunction=activation)
    pads = build.tensor([4, 2], kind="INT32", constant=np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32))
    value = build.tensor([], constant=np.array([filler], np.int8), zero_point=zero_point)
    wide = build.tensor([1, 6, 6, 6], zero_point=zero_point)
    build.operator("PADV2", 2, [added, pads, value], [wide], "PadV2Options")
    taken = build.tensor([1, 3, 3, 6], zero_point=zero_point)
    window = {"strideW": 2, "strideH": 2, "filterWidth": 2, "filterHeight": 2, "padding": 1}
    build.operator("MAX_POOL_2D", 3, [wide], [taken], "Pool2DOptions", **window)
    return build.interface(given, taken)


def test_padding_with_the_zero_point_is_plain_padding(build, run_bytes):
    before, after = legalized(padded(build, -128))
    assert versions(after) == [("ADD", 2), ("PAD", 2), ("MAX_POOL_2D", 2)]
    np.testing.assert_array_equal(run_bytes(after, CODES), run_bytes(before, CODES))


def test_minus_infinity_before_a_maximum_of_relus_is_zero(build, run_bytes):
    before, after = legalized(padded(build, -128, activation=1, zero_point=-30))
    assert versions(after)[1] == ("PAD", 2)
    np.testing.assert_array_equal(run_bytes(after, CODES), run_bytes(before, CODES))


def test_a_positive_number_before_a_maximum_stays(build):
    """More than zero is more than what a ReLU made: the border of the maximum is that number."""
    _, after = legalized(padded(build, 20, activation=1, zero_point=-30))
    assert versions(after)[1] == ("PADV2", 2)


@pytest.mark.parametrize("activation", [0, 2])  # none, RELU_N1_TO_1: numbers below zero are possible
def test_other_padding_stays(build, activation):
    _, after = legalized(padded(build, -128, activation=activation, zero_point=-30))
    assert versions(after)[1] == ("PADV2", 2)


def connected(build, *, scales, keep):
    given, taken = build.tensor([1, 6]), build.tensor([1, 2], scale=4.0, zero_point=0)
    weight = build.tensor([2, 6], constant=np.full((2, 6), 7, np.int8), scale=scales, zero_point=0)
    build.operator("FULLY_CONNECTED", 12, [given, weight, -1], [taken], "FullyConnectedOptions", keepNumDims=keep)
    return build.interface(given, taken)


def test_a_matrix_product_of_rank_2_is_version_4(build, run_bytes):
    before, after = legalized(connected(build, scales=0.5, keep=True))
    assert versions(after) == [("FULLY_CONNECTED", 4)]
    np.testing.assert_array_equal(run_bytes(after, CODES[0, 0, :1]), run_bytes(before, CODES[0, 0, :1]))


def test_a_scale_for_each_output_needs_the_newer_version(build):
    _, after = legalized(connected(build, scales=[0.5, 0.25], keep=False))
    assert versions(after) == [("FULLY_CONNECTED", 12)]


@pytest.mark.parametrize(("channels", "version"), [(6, 3), (3, 6)])
def test_a_grouped_convolution_keeps_its_version(build, channels, version):
    given, taken = build.tensor(CODES.shape), build.tensor([1, 4, 4, 2])
    weight = build.tensor([2, 1, 1, channels], constant=np.ones((2, 1, 1, channels), np.int8), zero_point=0)
    build.operator("CONV_2D", 6, [given, weight], [taken], "Conv2DOptions", strideW=1, strideH=1)
    _, after = legalized(build.interface(given, taken))
    assert versions(after) == [("CONV_2D", version)]


@pytest.mark.parametrize(("half_pixel", "version"), [(False, 2), (True, 3)])
def test_nearest_neighbours_with_half_pixel_centres_are_newer(build, half_pixel, version):
    given, taken = build.tensor(CODES.shape), build.tensor([1, 8, 8, 6])
    options = ("ResizeNearestNeighborOptions",)
    build.operator("RESIZE_NEAREST_NEIGHBOR", 3, [given, build.integers([8, 8])], [taken], *options)
    build.graph.operators[0].builtinOptions.halfPixelCenters = half_pixel
    _, after = legalized(build.interface(given, taken))
    assert versions(after) == [("RESIZE_NEAREST_NEIGHBOR", version)]


def shuffled(build, groups):
    """The five operators that the converter makes of torchvision's channel shuffle."""
    size = CODES.shape[-1] // groups
    shapes = [CODES.shape, (1, 6, 4, 4), (1, groups, size, 4, 4), (1, size, groups, 4, 4), (1, 6, 4, 4), CODES.shape]
    tensors = [build.tensor(shape) for shape in shapes]
    steps = [
        ("TRANSPOSE", [0, 3, 1, 2]),
        ("RESHAPE", shapes[2]),
        ("TRANSPOSE", [0, 2, 1, 3, 4]),
        ("RESHAPE", shapes[4]),
        ("TRANSPOSE", [0, 2, 3, 1]),
    ]
    for number, (kind, numbers) in enumerate(steps):
        build.operator(
            kind, 4 if kind == "TRANSPOSE" else 1, [tensors[number], build.integers(numbers)], [tensors[number + 1]]
        )
    return build.interface(tensors[0], tensors[-1])


@pytest.mark.parametrize("groups", [2, 3])
def test_a_channel_shuffle_moves_channels_once(build, groups, run_bytes):
    before, after = legalized(shuffled(build, groups))
    assert versions(after) == [("RESHAPE", 1), ("TRANSPOSE", 2), ("RESHAPE", 1)]
    np.testing.assert_array_equal(run_bytes(after, CODES), run_bytes(before, CODES))
    assert max(sum(size > 1 for size in tensor.shape) for tensor in parse_network(after).operators[1].outputs) == 3


def test_a_shuffle_that_something_else_looks_into_keeps_that(build, run_bytes):
    model = shuffled(build, 2)
    build.graph.outputs = [*build.graph.outputs, build.graph.operators[1].outputs[0]]
    before, after = legalized(model)
    assert [kind for kind, _ in versions(after)].count("TRANSPOSE") == 2  # one for each output, of three
    for index in range(2):
        np.testing.assert_array_equal(run_bytes(after, CODES, index), run_bytes(before, CODES, index))


PADS = [[0, 0], [1, 2], [0, 0], [0, 0]]  # channels, in the layout [N, C, H, W]


def moved_and_back(build, back):
    """TRANSPOSE to channels first -> PAD the channels -> SLICE -> TRANSPOSE by `back`."""
    order = build.integers([0, 3, 1, 2])
    tensors = [build.tensor(shape) for shape in (CODES.shape, (1, 6, 4, 4), (1, 9, 4, 4), (1, 8, 2, 4), (1, 2, 4, 8))]
    pads = build.tensor([4, 2], kind="INT32", constant=np.array(PADS, np.int32))
    build.operator("TRANSPOSE", 2, [tensors[0], order], [tensors[1]])
    build.operator("PAD", 2, [tensors[1], pads], [tensors[2]])
    numbers = (build.integers([0, 1, 1, 0]), build.integers([1, 8, 2, 4]))
    build.operator("SLICE", 2, [tensors[2], *numbers], [tensors[3]])
    build.operator("TRANSPOSE", 2, [tensors[3], build.integers(back)], [tensors[4]])
    return build.interface(tensors[0], tensors[4])


def test_transpositions_around_padding_and_slices_cancel(build, run_bytes):
    before, after = legalized(moved_and_back(build, [0, 2, 3, 1]))
    assert versions(after) == [("PAD", 2), ("SLICE", 2)]
    np.testing.assert_array_equal(run_bytes(after, CODES), run_bytes(before, CODES))
    network = parse_network(after)
    assert [operator.outputs[0].shape for operator in network.operators] == [(1, 4, 4, 9), (1, 2, 4, 8)]
    assert len(network.tensors) == 6  # data three times, padding, begin and size


def test_transpositions_that_do_not_cancel_stay(build):
    model = moved_and_back(build, [0, 2, 1, 3])
    build.graph.tensors[build.graph.outputs[0]].shape = [1, 2, 8, 4]
    _, after = legalized(model)
    assert [kind for kind, _ in versions(after)] == ["TRANSPOSE", "PAD", "SLICE", "TRANSPOSE"]


def test_old_readers_find_every_operator_code(build):
    model = padded(build, -128)
    for code in model.operatorCodes:
        code.deprecatedBuiltinCode = 0
    legalize(model)
    assert all(code.deprecatedBuiltinCode == min(code.builtinCode, 127) for code in model.operatorCodes)
    assert len(model.operatorCodes) == 3  # codes nobody uses are gone


def test_transpositions_that_something_else_reads_cancel_too(build, run_bytes):
    """Two branches leave one TRANSPOSE: a padding, and another TRANSPOSE straight back."""
    model = moved_and_back(build, [0, 2, 3, 1])
    straight = build.tensor(CODES.shape)
    moved = build.graph.operators[0].outputs[0]
    build.operator("TRANSPOSE", 2, [moved, build.integers([0, 2, 3, 1])], [straight])
    clipped = build.tensor(CODES.shape)
    build.operator("RELU", 2, [straight], [clipped])
    build.graph.outputs = [*build.graph.outputs, clipped]
    before, after = legalized(model)
    assert sorted(versions(after)) == [("PAD", 2), ("RELU", 2), ("SLICE", 2)]
    for index in range(2):
        np.testing.assert_array_equal(run_bytes(after, CODES, index), run_bytes(before, CODES, index))


def test_two_transpositions_right_after_each_other_leave_the_outputs_name(build, run_bytes):
    tensors = [build.tensor(CODES.shape), build.tensor(CODES.shape), build.tensor((1, 6, 4, 4))]
    last = build.tensor(CODES.shape, name="logits")
    build.operator("RELU", 2, [tensors[0]], [tensors[1]])
    build.operator("TRANSPOSE", 2, [tensors[1], build.integers([0, 3, 1, 2])], [tensors[2]])
    build.operator("TRANSPOSE", 2, [tensors[2], build.integers([0, 2, 3, 1])], [last])
    before, after = legalized(build.interface(tensors[0], last))
    assert versions(after) == [("RELU", 2)]
    assert parse_network(after).outputs[0].name == "logits"
    np.testing.assert_array_equal(run_bytes(after, CODES), run_bytes(before, CODES))


def flattened(build, *, between=(), rows=1):
    """TRANSPOSE to channels first -> RESHAPE -> (pointwise) -> FULLY_CONNECTED, as PyTorch's flatten gives it."""
    columns = CODES.size // rows
    order, wide = build.integers([0, 3, 1, 2]), build.tensor((1, 6, 4, 4))
    given, flat = build.tensor(CODES.shape), build.tensor((rows, columns))
    build.operator("TRANSPOSE", 2, [given, order], [wide])
    build.operator("RESHAPE", 1, [wide, build.integers([rows, columns])], [flat])
    for kind in between:
        clipped = build.tensor((rows, columns))
        build.operator(kind, 2, [flat], [clipped])
        flat = clipped
    values = np.random.default_rng(1).integers(-127, 128, (5, columns)).astype(np.int8)
    weight, taken = build.tensor(values.shape, constant=values, zero_point=0), build.tensor([rows, 5], scale=400.0)
    build.operator("FULLY_CONNECTED", 4, [flat, weight, -1], [taken], "FullyConnectedOptions")
    return build.interface(given, taken)


@pytest.mark.parametrize("between", [(), ("RELU",), ("RELU", "RELU6")])
def test_a_transposition_before_a_linear_is_the_order_of_its_weight(build, run_bytes, between):
    before, after = legalized(flattened(build, between=between))
    assert [kind for kind, _ in versions(after)] == ["RESHAPE", *between, "FULLY_CONNECTED"]
    np.testing.assert_array_equal(run_bytes(after, CODES), run_bytes(before, CODES))


def test_one_that_moves_numbers_between_rows_stays(build, run_bytes):
    """Six rows, one for each channel: no order of columns brings them there."""
    before, after = legalized(flattened(build, rows=6))
    assert [kind for kind, _ in versions(after)].count("TRANSPOSE") == 1
    np.testing.assert_array_equal(run_bytes(after, CODES), run_bytes(before, CODES))
