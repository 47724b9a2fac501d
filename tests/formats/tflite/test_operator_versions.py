"""Versions by what an operator does, and the runtime they need."""

from __future__ import annotations

import pytest

from compress.formats.tflite.check import Requirements, check_network
from compress.formats.tflite.network import Network, Operator, Quantization, Tensor
from compress.formats.tflite.versions import AFTER_TFLITE_RUNTIME, minimum_runtime, needed_version, runtime_of


def tensor(*shape, dtype="int8", scale=0.5):
    return Tensor(0, "t", dtype, shape, Quantization((scale,), (0,), 0), None)


def operator(kind, inputs, outputs, version=1, **options):
    return Operator(0, kind, version, tuple(inputs), tuple(outputs), options)


IMAGE, WIDE = tensor(1, 4, 4, 8), tensor(1, 2, 4, 4, 8)


@pytest.mark.parametrize(
    ("kind", "inputs", "options", "version", "runtime"),
    [
        ("RESIZE_BILINEAR", [IMAGE], {"halfPixelCenters": True}, 3, "2.2.0"),
        ("RESIZE_BILINEAR", [IMAGE], {"halfPixelCenters": False, "alignCorners": True}, 2, "1.14.0"),
        ("RESIZE_NEAREST_NEIGHBOR", [IMAGE], {"halfPixelCenters": True}, 3, "2.3.0"),
        ("RESIZE_NEAREST_NEIGHBOR", [IMAGE], {"alignCorners": True}, 3, "2.3.0"),
        ("RESIZE_NEAREST_NEIGHBOR", [IMAGE], {}, 2, "1.14.0"),
        ("LEAKY_RELU", [IMAGE], {"alpha": 0.1}, 2, "2.3.0"),
        ("CONV_2D", [IMAGE, tensor(8, 3, 3, 8)], {}, 3, "1.14.0"),
        ("CONV_2D", [IMAGE, tensor(8, 3, 3, 4)], {}, 6, "2.9.0"),
        ("FULLY_CONNECTED", [IMAGE, tensor(8, 8)], {"keepNumDims": True}, 5, "2.0.0"),
        ("FULLY_CONNECTED", [IMAGE, tensor(8, 8)], {"keepNumDims": False}, 4, "1.14.0"),
        ("TRANSPOSE", [IMAGE], {}, 2, "1.14.0"),
        ("TRANSPOSE", [WIDE], {}, 4, "2.3.0"),
        ("SLICE", [WIDE], {}, 5, "2.5.0"),
        ("STRIDED_SLICE", [IMAGE], {"newAxisMask": 2}, 6, "2.6.0"),
        ("PAD", [WIDE], {}, 4, "2.6.0"),
        ("SUB", [WIDE, WIDE], {}, 3, "2.3.0"),
        ("MUL", [tensor(1, 8, scale=2.0), tensor(1, 8, scale=0.5)], {}, 3, "1.15.0"),
        ("MUL", [tensor(1, 8, scale=0.5), tensor(1, 8, scale=0.5)], {}, 2, "1.14.0"),
        ("TRANSPOSE_CONV", [tensor(4, dtype="int32"), tensor(8, 3, 3, 8), IMAGE], {}, 2, "2.2.0"),
        ("TRANSPOSE_CONV", [tensor(4, dtype="int32"), tensor(8, 3, 3, 8), IMAGE, tensor(8)], {}, 3, "2.3.0"),
        ("SPLIT", [tensor(dtype="int32"), IMAGE], {}, 2, "1.14.0"),
        ("QUANTIZE", [IMAGE], {}, 1, "1.14.0"),
        ("HARD_SWISH", [IMAGE], {}, 1, "1.15.0"),
    ],
)
def test_what_it_does_decides(kind, inputs, options, version, runtime):
    result = IMAGE if kind != "MUL" else tensor(1, 8, scale=0.5)
    node = operator(kind, inputs, [result], version, **options)
    assert needed_version(node) == version
    assert runtime_of(node) == runtime


def test_others_are_not_judged():
    floats = tensor(1, 4, dtype="float32")
    assert needed_version(operator("MUL", [floats, floats], [floats])) is None
    assert needed_version(operator("SOMETHING", [IMAGE], [IMAGE])) is None


def network(*operators):
    tensors = tuple(dict.fromkeys(end for node in operators for end in (*node.inputs, *node.outputs)))
    return Network((IMAGE,), (IMAGE,), tensors, operators, 1, {})


BILINEAR = operator("RESIZE_BILINEAR", [IMAGE], [IMAGE], 2, halfPixelCenters=True)


def test_a_version_that_says_too_little_is_found():
    (violation,) = check_network(network(BILINEAR), Requirements(full_integer=True))
    assert str(violation) == "operator 0 RESIZE_BILINEAR: version 2 is stated (what it does needs version 3)"


def test_an_operator_that_the_targets_runtime_cannot_load_is_found():
    stable = operator("STABLEHLO_COMPOSITE", [IMAGE], [IMAGE], 1)
    found = check_network(network(stable), Requirements(full_integer=True, runtime="2.14.0"))
    assert [str(violation) for violation in found] == [
        "operator 0 STABLEHLO_COMPOSITE: needs a runtime from 2.15.0 on (the target has 2.14.0)"
    ]
    assert check_network(network(stable), Requirements(full_integer=True)) == []


def test_the_newest_operator_decides_for_the_file():
    plain, grouped = operator("RELU", [IMAGE], [IMAGE], 2), operator("CONV_2D", [IMAGE], [IMAGE], 6)
    assert minimum_runtime([]) == "1.14.0"
    assert minimum_runtime([plain]) == "2.1.0"
    assert minimum_runtime([grouped, plain]) == "2.9.0"
    assert minimum_runtime([plain, operator("STABLEHLO_ADD", [IMAGE], [IMAGE])]) == AFTER_TFLITE_RUNTIME
