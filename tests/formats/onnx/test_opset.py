"""Every rule that rewrites a node: the older graph is valid and computes the same in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_ir.passes import common

from compress.core.errors import StageError
from compress.formats.onnx.opset import Ceiling, lower_opset

ANY = Ceiling(None, "")
NANO = Ceiling(13, "the parser stops at 13")


def parse(body: str, opset: int, *, x: str = "float[2,4,6,6]", y: str = "float[]", initializers: str = "") -> ir.Model:
    """A one-input model from ONNX text; `y` is replaced by what shape inference finds."""
    text = f'<ir_version: 10, opset_import: ["" : {opset}]> g ({x} x) => ({y} y) {initializers} {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    if y == "float[]":
        proto.graph.output[0].ClearField("type")
    for number, node in enumerate(proto.graph.node):
        node.name = f"node{number}"
    model = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(proto))
    common.ShapeInferencePass()(model)
    return model


def run(model: ir.Model, x: np.ndarray) -> np.ndarray:
    proto = ir.serde.serialize_model(model)
    proto.ir_version = 10
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def images(shape=(2, 4, 6, 6), dtype=np.float32) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def check_same(body: str, opset: int, wanted: int, *, x: np.ndarray | None = None, **parts) -> list[str]:
    """Lower, compare, and return the operators of the lowered graph."""
    x = images() if x is None else x
    model = parse(body, opset, **parts)
    before = run(model, x)
    lower_opset(model, wanted, ANY)
    assert model.opset_imports[""] == wanted
    tolerance = 1e-6 if x.dtype == np.float32 else 4e-3
    np.testing.assert_allclose(run(model, x), before, rtol=tolerance, atol=tolerance)
    return [node.op_type for node in model.graph]


CASES = {
    "reduce axes": ("y = ReduceMean<keepdims=1>(x, axes)", 18, "int64[2] axes = {2, 3}", ["ReduceMean"]),
    "reduce all": ("y = ReduceMax(x)", 18, "", ["ReduceMax"]),
    "reduce nothing": ("y = ReduceMax<noop_with_empty_axes=1>(x)", 18, "", ["Identity"]),
    "split evenly": ("a, b = Split<axis=1, num_outputs=2>(x)\n y = Sub(a, b)", 18, "", ["Split", "Sub"]),
    "split unevenly": (
        "f = Reshape(x, s)\n a, b, c = Split<axis=1, num_outputs=3>(f)\n y = Concat<axis=1>(c, a)",
        18,
        "int64[2] s = {18, 16}",
        ["Reshape", "Split", "Concat"],
    ),
    "pad some axes": ("y = Pad(x, pads, , axes)", 18, "int64[4] pads = {1, 0, 2, 3} int64[2] axes = {-1, 1}", ["Pad"]),
    "resize": (
        'y = Resize<antialias=0, keep_aspect_ratio_policy="stretch", mode="linear">(x, , scales)',
        19,
        "float[4] scales = {1.0, 1.0, 2.0, 2.0}",
        ["Resize"],
    ),
    "reshape": ("y = Reshape<allowzero=1>(x, s)", 19, "int64[2] s = {2, -1}", ["Reshape"]),
    "hard swish": ("y = HardSwish(x)", 14, "", ["HardSigmoid", "Mul"]),
    "gelu": ("y = Gelu(x)", 20, "", ["Mul", "Mul", "Erf", "Add", "Mul"]),
    "gelu tanh": ('y = Gelu<approximate="tanh">(x)', 20, "", None),
    "mish": ("y = Mish(x)", 18, "", ["Softplus", "Tanh", "Mul"]),
    "layer norm": (
        "y = LayerNormalization<axis=-1, epsilon=0.01>(x, w, b)",
        17,
        "float[6] w = {1, 2, 3, 4, 5, 6} float[6] b = {0, 1, 0, 1, 0, 1}",
        None,
    ),
    "layer norm of two axes": (
        "w = ConstantOfShape<value = float[1] {2.0}>(s)\n y = LayerNormalization<axis=2>(x, w)",
        17,
        "int64[2] s = {6, 6}",
        None,
    ),
    "group norm": (
        "y = GroupNormalization<num_groups=2>(x, w, b)",
        21,
        "float[4] w = {1, 2, 3, 4} float[4] b = {0, 1, 0, 1}",
        None,
    ),
    "shape slice": ("s = Shape<start=1, end=3>(x)\n y = Cast<to=1>(s)", 15, "", ["Shape", "Slice", "Cast"]),
    "cast like": ("h = Cast<to=10>(x)\n z = CastLike(x, h)\n y = Cast<to=1>(z)", 19, "", ["Cast", "Cast", "Cast"]),
    "average pool": ("y = AveragePool<kernel_shape=[2,2], dilations=[1,1]>(x)", 19, "", ["AveragePool"]),
    "batch norm": (
        "y = BatchNormalization<training_mode=0>(x, w, b, m, v)",
        15,
        "float[4] w = {1,2,3,4} float[4] b = {0,1,0,1} float[4] m = {0,1,0,1} float[4] v = {1,2,1,2}",
        ["BatchNormalization"],
    ),
    "quantize": (
        "q = QuantizeLinear<saturate=1, axis=1>(x, s, z)\n y = DequantizeLinear<axis=1>(q, s, z)",
        19,
        "float[4] s = {0.1, 0.2, 0.3, 0.4} int8[4] z = {0, 0, 0, 0}",
        ["QuantizeLinear", "DequantizeLinear"],
    ),
    "types only": ("a = Add(x, x)\n b = Relu(a)\n c = Conv(b, b)\n y = Identity(c)", 22, "", None),
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_lowered_graph_computes_the_same_at_13(case):
    body, opset, constants, operators = CASES[case]
    initializers = f"<{constants.replace('} ', '}, ')}>" if constants else ""
    y = "float[2,4,6,6]" if case == "group norm" else "float[]"  # its shape is not inferred at 21
    result = check_same(body, opset, 13, y=y, initializers=initializers)
    assert operators is None or result == operators


def test_float16_layer_norm_does_not_overflow():
    body = "h = Cast<to=10>(x)\n g = Cast<to=10>(w)\n n = LayerNormalization(h, g)\n y = Cast<to=1>(n)"
    model = parse(body, 17, initializers="<float[6] w = {1, 1, 1, 1, 1, 1}>")
    lower_opset(model, 13, NANO)
    x = 1000 * images()  # squares beyond 65504
    reference = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(run(model, x), reference, atol=5e-3)


def test_grid_sample_modes_had_other_names():
    model = parse('y = GridSample<mode="linear">(x, g)', 20, initializers="<float[2,1,1,2] g = {0.1, 0.2, -0.3, 0.4}>")
    before = run(model, images())
    lower_opset(model, 17, ANY)
    assert next(iter(model.graph)).attributes["mode"].as_string() == "bilinear"
    np.testing.assert_allclose(run(model, images()), before, atol=1e-6)


def test_a_model_that_is_low_enough_stays():
    model = parse("y = Relu(x)", 11)
    lower_opset(model, 13, NANO)
    assert model.opset_imports[""] == 11


def test_shared_input_is_not_lost():
    """The expanded node's input is used twice, by the new nodes and by a neighbour."""
    assert check_same("a = HardSwish(x)\n y = Add(a, x)", 14, 13) == ["HardSigmoid", "Mul", "Add"]


REFUSED = {
    "new operator": ("y = GridSample(x, g)", 20, r"op GridSample \(node 'node0'\) needs opset 16"),
    "runtime axes": (
        "s = Shape(x)\n r = Size(s)\n a = Sub(r, one)\n y = ReduceMean(x, a)",
        18,
        r"op ReduceMean \(node 'node3'\) needs opset 18: its axes are computed at run time",
    ),
    "wrapped padding": ('y = Pad<mode="wrap">(x, p)', 19, r"op Pad .* needs opset 18: mode wrap is newer"),
    "antialias": (
        'y = Resize<antialias=1, mode="linear">(x, , scales)',
        18,
        r"op Resize .* needs opset 18: attribute antialias=1 is newer than opset 13",
    ),
    "16-bit scale": (
        "h = Cast<to=10>(x)\n s = Cast<to=10>(unit)\n q = QuantizeLinear(h, s)\n y = Cast<to=1>(q)",
        19,
        r"op QuantizeLinear .* needs opset 19: a scale of type FLOAT16 is newer",
    ),
    "empty reshape": ("y = Reshape<allowzero=1>(x, z)", 14, r"op Reshape .*: a size of 0 with allowzero=1"),
}
CONSTANTS = (
    "<float[2,1,1,2] g = {0.1, 0.2, -0.3, 0.4}, int64[1] one = {1}, int64[8] p = {0,0,1,1,0,0,1,1}, "
    "float[4] scales = {1, 1, 2, 2}, float unit = {1}, int64[2] z = {0, 5}>"
)


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_refused_by_name(case):
    body, opset, message = REFUSED[case]
    model = parse(body, opset, initializers=CONSTANTS)
    with pytest.raises(StageError, match=message + r".*; the parser stops at 13 \| fix: replace the layer"):
        lower_opset(model, 13, NANO)


def test_refusal_offers_the_opset_that_is_allowed():
    model = parse("y = GridSample(x, g)", 20, initializers=CONSTANTS)
    with pytest.raises(StageError, match=r"opset 13 was asked for \| fix: opset=16"):
        lower_opset(model, 13, Ceiling(17, "the parser stops at 17"))


def test_foreign_operators_are_refused():
    model = parse("y = Relu(x)", 13)
    next(iter(model.graph)).domain = "com.microsoft"
    with pytest.raises(StageError, match=r"op com\.microsoft\.Relu \(node 'node0'\) is not an ONNX operator"):
        lower_opset(model, 13, NANO)


@settings(max_examples=25, deadline=None)
@given(st.integers(13, 20), st.sampled_from([case for case in CASES if CASES[case][1] == 20 or case == "types only"]))
def test_any_opset_on_the_way_is_valid(opset, case):
    body, source, _, _ = CASES[case]
    check_same(body, source, opset)
