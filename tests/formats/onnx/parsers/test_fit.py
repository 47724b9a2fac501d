"""Graphs against the tables: what is read stays, what has another form computes the same, the rest is refused."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import half, images, parse, run
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.core.errors import StageError
from compress.formats.onnx.parsers.fit import fit, refused
from compress.formats.onnx.parsers.table import load_parser

V82, V85 = "tensorrt_8_2", "tensorrt_8_5"
V103 = "tensorrt_10_3"
HALF = "float16[2,4,6,6]"


def fitted(model, name: str) -> list[str]:
    fit(model, load_parser(name), "the board")
    assert refused(model, load_parser(name)) == []
    return [node.op_type for node in model.graph]


READ = {
    "convolution": ("y = Conv(x, w)", "float[5,4,3,3] w = {0.5}", {}),
    "pooling": ("y = AveragePool<kernel_shape=[2,2], pads=[0,0,1,1]>(x)", "", {}),
    "linear resize": ('y = Resize<mode="linear">(x, , s)', "float[4] s = {1.0, 1.0, 2.0, 2.0}", {}),
    "reflection": ('y = Pad<mode="reflect">(x, p)', "int64[8] p = {0, 0, 1, 1, 0, 0, 1, 1}", {}),
    "symmetric integers": (
        "q = QuantizeLinear(x, s, z)\n y = DequantizeLinear(q, s, z)",
        "float s = {0.1} int8 z = {0}",
        {},
    ),
    "half bounds": ("y = Clip(x, a, b)", f"{half('a', 0)} {half('b', 6)}", {"x": HALF}),
}


@pytest.mark.parametrize("case", READ)
@pytest.mark.parametrize("name", [V82, V85, V103])
def test_what_is_read_stays(case, name):
    body, initializers, more = READ[case]
    if initializers.startswith("float[5"):
        initializers = f"float[5,4,3,3] w = {{{', '.join(['0.5'] * 180)}}}"
    if case == "half bounds" and name == V82:
        pytest.skip("8.2 reads them as float32")
    model = parse(body, initializers=initializers, **more)
    before = [node.op_type for node in model.graph]
    assert fit(model, load_parser(name), "the board") == ()
    assert [node.op_type for node in model.graph] == before


LAYER_NORM = ["ReduceMean", "Sub", "Mul", "ReduceMean", "Add", "Sqrt", "Div", "Mul", "Add"]
REWRITTEN = {
    # table, body, opset, initializers, input type, operators
    "layer norm": (
        V85,
        "y = LayerNormalization<axis=-1>(x, w, b)",
        17,
        "float[6] w = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0} float[6] b = {0.5, 0, 0, 0, 0, 1.0}",
        "float[2,4,6,6]",
        LAYER_NORM,
    ),
    "layer norm, several axes": (
        V85,
        "y = LayerNormalization<axis=2, epsilon=0.5>(x, w)",
        17,
        f"float[6,6] w = {{{', '.join(['1.5'] * 36)}}}",
        "float[2,4,6,6]",
        LAYER_NORM[:-1],
    ),
    "celu": (
        V82,
        "y = Celu<alpha=1.5>(x)",
        13,
        "",
        "float[2,4,6,6]",
        ["Relu", "Div", "Exp", "Sub", "Mul", "Min", "Add"],
    ),
    "relu6 in half": (V82, "y = Clip(x, a, b)", 13, f"{half('a', 0)} {half('b', 3)}", HALF, ["Relu", "Min"]),
    "hardtanh in half": (V82, "y = Clip(x, a, b)", 13, f"{half('a', -1)} {half('b', 1)}", HALF, ["Max", "Min"]),
    "one bound in half": (V82, "y = Clip(x, , b)", 13, f"{half('b', 1)}", HALF, ["Min"]),
    "instance norm in half": (
        V85,
        "y = InstanceNormalization(x, w, b)",
        13,
        f"{half('w', 1, 2, 3, 4, shape='[4]')} {half('b', 1, 0, 0, 1, shape='[4]')}",
        HALF,
        ["Cast", "InstanceNormalization", "Cast"],
    ),
    "mean in half": (V85, "y = Mean(x, x)", 13, "", HALF, ["Cast", "Cast", "Mean", "Cast"]),
    "scaled product in half": (
        V85,
        "f = Reshape(x, r)\n y = Gemm<alpha=0.5>(f, w)",
        13,
        f"int64[2] r = {{48, 6}} {half('w', 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, shape='[6,2]')}",
        HALF,
        ["Reshape", "Cast", "Gemm", "Cast"],
    ),
    "mean and variance": (
        V82,
        "y = MeanVarianceNormalization(x)",
        13,
        "",
        "float[2,4,6,6]",
        ["ReduceMean", "Sub", "Mul", "ReduceMean", "Sqrt", "Add", "Div"],
    ),
    "a fill in half": (
        V82,
        "y = Pad(x, p, v)",
        13,
        f"int64[8] p = {{0, 0, 1, 1, 0, 0, 1, 1}} {half('v', -3)}",
        HALF,
        ["Cast", "Pad", "Cast"],
    ),
    "a fill of zero in half": (
        V82, "y = Pad(x, p, v)", 13, f"int64[8] p = {{0, 0, 1, 1, 0, 0, 1, 1}} {half('v', 0)}", HALF, ["Pad"],
    ),
    "cropping": (
        V85,
        "y = Pad(x, p, v)",
        13,
        "int64[8] p = {0, 0, -1, 2, 0, 0, -2, 0} float v = {4}",
        "float[2,4,6,6]",
        ["Slice", "Pad"],
    ),
    "only cropping": (
        V85, "y = Pad(x, p)", 13, "int64[8] p = {0, 0, -1, 0, 0, 0, 0, -3}", "float[2,4,6,6]", ["Slice"],
    ),
    "an integer exponent": (V85, "y = Pow(x, e)", 13, "int64 e = {2}", "float[2,4,6,6]", ["Pow"]),
    "triangle of images": (V85, "y = Trilu<upper=0>(x, k)", 14, "int64 k = {1}", "float[2,4,6,6]", ["Where"]),
    "shrink": (
        V82,
        "y = Shrink<lambd=0.7, bias=0.25>(x)",
        13,
        "",
        "float[2,4,6,6]",
        ["Less", "Add", "Greater", "Sub", "Where", "Where"],
    ),
    "cubic": (
        V82,
        'y = Resize<mode="cubic">(x, , s)',
        13,
        "float[4] s = {1.0, 1.0, 2.0, 1.5}",
        "float[2,4,6,6]",
        ["MatMul"] * 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REWRITTEN)
def test_what_is_lacking_is_written_with_what_is_there(case):
    name, body, opset, initializers, kind, operators = REWRITTEN[case]
    model = parse(body, opset=opset, initializers=initializers, x=kind)
    x = images(dtype=np.float16 if kind == HALF else np.float32)
    before = run(model, x)
    assert fitted(model, name) == operators
    tolerance = 2e-3 if x.dtype == np.float16 else 1e-5
    np.testing.assert_allclose(run(model, x), before, rtol=tolerance, atol=tolerance)


def test_the_rewrites_are_told():
    body = "a = LayerNormalization(x, w)\n b = Relu(a)\n y = LayerNormalization(b, w)"
    model = parse(body, opset=17, initializers="float[6] w = {1, 2, 3, 4, 5, 6}")
    assert fit(model, load_parser(V85), "the board") == (
        "2 LayerNormalization as ReduceMean, Sub, Mul, Add, Sqrt, Div",
    )
    assert model.graph.outputs[0].name == "y"


REFUSED = {
    "no importer": (V82, "y = Hardmax(x)", "", "Hardmax .*not among its operators", "replace the layer"),
    "a newer importer": (V82, "y = IsInf(x)\n", "", "IsInf", "replace the layer"),
    "dilated pooling": (
        V85,
        "y = MaxPool<kernel_shape=[2,2], dilations=[2,2]>(x)",
        "",
        "dilations=2, read are 1",
        "replace the layer that makes MaxPool",
    ),
    "indices": (
        V85, "a, b = MaxPool<kernel_shape=[2,2]>(x)\n y = Cast<to=1>(b)", "", "output 1 is used", "MaxPool",
    ),
    "uneven average": (
        V82, "y = AveragePool<kernel_shape=[3,3], pads=[2,0,0,0]>(x)", "", "neither symmetric", "AveragePool",
    ),
    "wrapping": (V82, 'y = Resize<coordinate_transformation_mode="tf_crop_and_resize">(x, r, s)',
        "float[8] r = {0,0,0,0,1,1,1,1} float[4] s = {1.0, 1.0, 2.0, 2.0}", "tf_crop_and_resize, read are half_pixel",
        "Resize"),
    "L3": (V85, "y = LpNormalization<axis=1, p=2>(x)", "", None, None),
    "integers": (V85, "i = Cast<to=6>(x)\n s = Softmax(i)\n y = Cast<to=1>(s)", "", "its input is int32", "Softmax"),
    "a computed axis": (
        V82,
        "s = Shape(x)\n a = Slice(s, b, e)\n n = Sub(a, a)\n r = ReduceSum(x, n)\n y = Identity(r)",
        "int64[1] b = {0} int64[1] e = {1}",
        "input 1 is computed at run time",
        "ReduceSum",
    ),
    "integer kernels": (
        V85,
        "q = QuantizeLinear(x, s, z)\n m = MatMulInteger(q, w)\n y = Cast<to=1>(m)",
        "float s = {0.1} int8 z = {0} int8[6,1] w = {1,2,3,4,5,6}",
        "MatMulInteger",
        "give the float model, or one quantized with QuantizeLinear",
    ),
    "wide sorting": (
        V103, "v, i = TopK(x, k)\n y = Identity(v)", "int64[1] k = {3840}", "k=3840, read are numbers below", "TopK",
    ),
    "a diagonal": (V103, 'y = Einsum<equation="...ii->...i">(x)', "", "a diagonal", "Einsum"),
    "smoothing": (
        V103,
        'y = Resize<antialias=1, mode="linear">(x, , s)',
        "float[4] s = {1.0, 1.0, 0.5, 0.5}",
        "antialias=1, read are 0",
        "Resize",
    ),
    "negative steps": (
        V103,
        "q = QuantizeLinear(x, s, z)\n y = DequantizeLinear(q, s, z)",
        "float s = {-0.1} int8 z = {0}",
        "not positive",
        "QuantizeLinear",
    ),
    "an ellipsis": (V85, 'y = Einsum<equation="...ij->...ji">(x)', "", "an ellipsis", "Einsum"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_form_is_refused_by_name(case):
    name, body, initializers, problem, fix = REFUSED[case]
    model = parse(body, initializers=initializers)
    if problem is None:
        fit(model, load_parser(name), "the board")
        return
    with pytest.raises(StageError, match=problem) as caught:
        fit(model, load_parser(name), "Some Board")
    assert fix in (caught.value.fix or "")
    assert str(caught.value).startswith(f"Some Board's parser ({load_parser(name).parser}) does not read ")
    assert "node" in str(caught.value)


def test_several_are_named_at_once():
    body = "a = Hardmax(x)\n b = Hardmax(a)\n c = Hardmax(b)\n d = Hardmax(c)\n y = Det(d)"
    with pytest.raises(StageError, match=r"'node0'.*'node1'.*'node2'.*and 2 more"):
        fit(parse(body), load_parser(V85), "the board")


def test_tensorrt_10_reads_what_8_5_lacked():
    weight = "float[6] w = {1, 2, 3, 4, 5, 6}"
    normal = parse("y = LayerNormalization(x, w)", opset=17, initializers=weight)
    assert fit(normal, load_parser(V103), "the board") == ()
    dotted = parse('y = Einsum<equation="...ij->...ji">(x)')
    assert fit(dotted, load_parser(V103), "the board") == ()
    assert refused(
        parse("a, m = LayerNormalization(x, w)\n y = Add(a, m)", opset=17, initializers=weight), load_parser(V103)
    )


@pytest.mark.parametrize(("name", "works"), [(V82, False), (V85, True)])
def test_unsigned_constants_need_a_parser_that_has_them(name, works):
    model = parse("i = Cast<to=1>(c)\n y = Add(x, i)", initializers="uint8[6] c = {1, 2, 3, 4, 5, 6}")
    if works:
        fit(model, load_parser(name), "the board")
        return
    with pytest.raises(StageError, match=r"'c' is uint8|input is uint8"):
        fit(model, load_parser(name), "the board")


@settings(max_examples=25, deadline=None)
@given(
    shape=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    axis=st.integers(-4, 3),
    biased=st.booleans(),
    seed=st.integers(0, 99),
)
def test_layer_normalization_equals_its_form_for_any_axis(shape, axis, biased, seed):
    axis = axis % len(shape)
    normal = shape[axis:]
    rng = np.random.default_rng(seed)
    numbers = [rng.standard_normal(int(np.prod(normal))).round(3).tolist() for _ in range(2)]
    kind = f"float[{','.join(map(str, normal))}]"
    w, b = (f"{kind} {name} = {{{', '.join(map(str, values))}}}" for name, values in zip("wb", numbers, strict=True))
    model = parse(
        f"y = LayerNormalization<axis={axis}>(x, w{', b' if biased else ''})",
        opset=17,
        x=f"float[{','.join(map(str, shape))}]",
        initializers=f"{w} {b}" if biased else w,
    )
    x = images(shape, seed=seed)
    before = run(model, x)
    fitted(model, V85)
    np.testing.assert_allclose(run(model, x), before, rtol=1e-4, atol=1e-5)
