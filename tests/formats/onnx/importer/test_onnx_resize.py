"""Imported resizing computes what ONNX Runtime computes."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_files import assert_parity, constant, node, write

RESIZES = [
    {"mode": mode, "coordinate_transformation_mode": coordinates, **more}
    for mode, coordinates, more in [
        ("nearest", "asymmetric", {"nearest_mode": "floor"}),
        ("nearest", "half_pixel", {}),
        ("nearest", "half_pixel", {"nearest_mode": "round_prefer_ceil"}),
        ("nearest", "asymmetric", {"nearest_mode": "ceil"}),
        ("nearest", "align_corners", {}),
        ("linear", "half_pixel", {}),
        ("linear", "align_corners", {}),
        ("linear", "asymmetric", {}),
        ("linear", "pytorch_half_pixel", {"antialias": 1}),
        ("cubic", "half_pixel", {}),
        ("cubic", "align_corners", {"cubic_coeff_a": -0.5}),
        ("cubic", "half_pixel", {"exclude_outside": 1}),
    ]
]


@pytest.mark.parametrize("to", ["twice", "smaller", "sizes"])
@pytest.mark.parametrize("attributes", RESIZES, ids=lambda attributes: "-".join(map(str, attributes.values())))
def test_resize(tmp_path, attributes, to):
    operands = {
        "twice": ("", "f"),
        "smaller": ("", "f"),
        "sizes": ("", "", "z"),
    }[to]
    factors = [1, 1, 2, 2] if to == "twice" else [1, 1, 0.6, 1.3]
    stored = [constant("f", factors)] if to != "sizes" else [constant("z", [1, 4, 7, 20], np.int64)]
    shape = ("n", 4, 9, 9) if to != "sizes" else (1, 4, 9, 9)
    assert_parity(write(tmp_path, [node("Resize", *operands, **attributes)], stored, shape=shape), batch=1)


@pytest.mark.parametrize(
    ("attributes", "function"),
    [
        ({"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}, "nearest"),
        ({"mode": "linear", "coordinate_transformation_mode": "half_pixel"}, "bilinear"),
        ({"mode": "linear", "coordinate_transformation_mode": "align_corners"}, "bilinear"),
        ({"mode": "cubic", "coordinate_transformation_mode": "half_pixel"}, "bicubic"),
    ],
)
def test_resize_is_an_interpolation_of_torch_where_that_computes_the_same(tmp_path, attributes, function):
    """Runtimes have kernels for those, and for a product with a matrix only a slow one."""
    module = assert_parity(write(tmp_path, [node("Resize", "", "f", **attributes)], [constant("f", [1, 1, 2, 2])]))
    (call,) = [step for step in module.graph.nodes if step.op == "call_function"]
    assert function in call.args


def test_resize_to_sizes_computed_from_the_shape(tmp_path):
    """What the TorchScript exporter writes for `F.interpolate(x, scale_factor=2)`."""
    nodes = [
        node("Shape", outputs=("s",)),
        helper.make_node("Slice", ["s", "zero", "two"], ["nc"]),
        helper.make_node("Slice", ["s", "two", "four"], ["hw"]),
        helper.make_node("Cast", ["hw"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["real", "factor"], ["scaled"]),
        helper.make_node("Floor", ["scaled"], ["floor"]),
        helper.make_node("Cast", ["floor"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Concat", ["nc", "whole"], ["z"], axis=0),
        helper.make_node("Resize", ["x", "", "", "z"], ["y"], mode="linear"),
    ]
    stored = [constant(name, [value], np.int64) for name, value in (("zero", 0), ("two", 2), ("four", 4))]
    path = write(tmp_path, nodes, [*stored, constant("factor", 2.5)], shape=("n", 4, 8, 8))
    assert_parity(path, shape=(4, 8, 8))
