"""Which products have a constant weight, in every way ONNX can write one, and what the others are."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from doubles import SATURATES
from onnx_ir.passes import common

from compress.core.errors import StageError
from compress.formats.onnx.dynamic_quant import quantize_linears
from compress.formats.onnx.linear_layers import choose, describe_float, find_linears, finite, read_elsewhere
from compress.formats.onnx.weight_only import BlockScheme, pack_linears

RNG = np.random.default_rng(0)
SCHEME = BlockScheme(bits=8, block_size=16, symmetric=False, search=True, accuracy_level=0)
HEADER = '<ir_version: 8, opset_import: ["" : 17]>'


def model(body, inputs="float[5, 24] x", **constants):
    """A graph in ONNX's text form with `constants` as initializers and one output `y`."""
    proto = onnx.parser.parse_model(f"{HEADER} g ({inputs}) => (float[?, ?] y) {{ {body} }}")
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in constants.items())
    graph = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(proto))
    common.NameFixPass()(graph)
    return graph


def weight(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def run(graph, **inputs):
    file = ir.serde.serialize_model(graph).SerializeToString()
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, inputs)[0]


FORMS = {
    "plain": ("y = MatMul(x, w)", {"w": weight(24, 8)}),
    "with its bias": ("p = MatMul(x, w) y = Add(p, b)", {"w": weight(24, 8), "b": weight(8)}),
    "transposed before": ("t = Transpose<perm = [1, 0]>(w) y = MatMul(x, t)", {"w": weight(8, 24)}),
    "Gemm": ("y = Gemm(x, w, b)", {"w": weight(24, 8), "b": weight(8)}),
    "Gemm transposed": ("y = Gemm<transB = 1>(x, w)", {"w": weight(8, 24)}),
    "Gemm twice transposed": (
        "t = Transpose<perm = [1, 0]>(w) y = Gemm<transB = 1>(x, t)",
        {"w": weight(24, 8)},
    ),
    "Gemm scaled": ("y = Gemm<alpha = 0.5, beta = 3.0>(x, w, b)", {"w": weight(24, 8), "b": weight(1, 8)}),
    "Gemm with a computed bias": (
        "b = ReduceMean<axes = [1]>(x) y = Gemm<beta = 2.0>(x, w, b)",
        {"w": weight(24, 8)},
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rewrite", ["dynamic", "weight_only"])
def test_every_form_of_a_linear_layer_is_found_and_rewritten(form, rewrite):
    body, constants = FORMS[form]
    x = weight(5, 24)
    graph = model(body, **constants)
    expected = run(graph, x=x)
    linears, others = find_linears(graph)
    assert len(linears) == 1
    assert not others
    assert linears[0].shape == linears[0].weight_by_output().shape == (8, 24)
    if rewrite == "dynamic":
        quantize_linears(linears, per_channel=True, limit=64 if SATURATES else 127)
    else:
        pack_linears(graph, linears, SCHEME)
    actual = run(graph, x=x)
    bound = 32 if SATURATES and rewrite == "dynamic" else 38  # one bit less is 6 dB less
    assert 10 * np.log10(np.sum(expected**2) / np.sum((actual - expected) ** 2)) > bound
    assert not [node for node in graph.graph if node.op_type in ("MatMul", "Gemm")]


@pytest.mark.parametrize(
    ("body", "inputs", "constants", "reason"),
    [
        ("y = MatMul(x, z)", "float[5, 24] x, float[24, 8] z", {}, "a product of two activations"),
        ("y = MatMul(w, x)", "float[5, 24] x", {"w": weight(8, 5)}, "its weight is on the left"),
        ("y = Gemm<transA = 1>(x, w)", "float[5, 24] x", {"w": weight(5, 8)}, "its activation is transposed"),
        ("y = MatMul(x, w)", "double[5, 24] x", {"w": RNG.normal(size=(24, 8))}, "its weight is DOUBLE"),
        ("p = MatMul(x, w) y = Squeeze(p)", "float[5, 24] x", {"w": weight(1, 24, 8)}, "its weight is not a matrix"),
    ],
)
def test_the_others_are_listed_with_the_reason(body, inputs, constants, reason):
    body = body if "double" not in inputs else body.replace("y = MatMul(x, w)", "p = MatMul(x, w) y = Cast<to = 1>(p)")
    linears, others = find_linears(model(body, inputs, **constants))
    assert not linears
    assert reason in others[0].reason


def test_float_nodes_are_grouped_by_reason_and_long_lists_are_cut():
    body = "".join(f"y{i} = MatMul(x{i}, x{i + 1}) x{i + 2} = Relu(y{i}) " for i in range(10)) + "y = Relu(y9)"
    _, others = find_linears(model(body, "float[4, 4] x0, float[4, 4] x1"))
    assert len(others) == 10
    (line,) = describe_float(others)
    assert line.startswith("10 MatMul in float, a product of two activations: ")
    assert line.endswith("and 2 more")


def test_shared_activations_and_weights_are_quantized_once():
    graph = model(
        "p = MatMul(x, w) q = MatMul(x, w) r = MatMul(x, v) s = Add(p, q) y = Add(s, r)",
        w=weight(24, 8),
        v=weight(24, 8),
    )
    linears, _ = find_linears(graph)
    quantize_linears(linears, per_channel=True, limit=127)
    kinds = [node.op_type for node in graph.graph]
    assert kinds.count("DynamicQuantizeLinear") == 1
    assert kinds.count("MatMulInteger") == 3
    codes = {node.inputs[1] for node in graph.graph if node.op_type == "MatMulInteger"}
    assert len(codes) == 2


def test_a_weight_that_an_embedding_also_reads_is_told_apart():
    tied = model("e = Gather(w, i) t = Transpose(w) y = MatMul(e, t)", "int64[5] i", w=weight(30, 24))
    linears, _ = find_linears(tied)
    assert read_elsewhere(linears[0], linears)
    free = model("t = Transpose(w) y = MatMul(x, t)", w=weight(30, 24))
    linears, _ = find_linears(free)
    assert not read_elsewhere(linears[0], linears)


def test_names_are_those_of_the_module_the_weight_and_the_node():
    constants = {"block.0.weight": weight(8, 24), "val_3": weight(8, 6), "block.1.bias": weight(6)}
    proto_body = "p = Gemm<transB = 1>(x, w0) q = MatMul(p, w1) y = Add(q, b1)"
    graph = model(proto_body, w0=constants["block.0.weight"], w1=constants["val_3"], b1=constants["block.1.bias"])
    for old, new in {"w0": "block.0.weight", "w1": "val_3", "b1": "block.1.bias"}.items():
        graph.graph.initializers[old].name = new
    linears, _ = find_linears(graph)
    assert [linear.names[0] for linear in linears] == ["block.0", "block.1"]
    assert "val_3" in linears[1].names
    assert choose(linears, ["block.0"], "s", kinds="MatMul") == [linears[1]]
    with pytest.raises(
        StageError, match=r"exclude pattern 'blok.1' matches no layer.* \| fix: names near it: .*block\.1"
    ):
        choose(linears, ["blok.1"], "s", kinds="MatMul")
    with pytest.raises(StageError, match="exclude leaves no layer to quantize"):
        choose(linears, ["*"], "s", kinds="MatMul")


def test_weights_that_are_not_finite_name_the_layer():
    bad = weight(24, 8)
    bad[0, 0] = np.inf
    graph = model("y = MatMul(x, w)", w=bad)
    with pytest.raises(StageError, match="weight of 'head' holds NaN or infinity"):
        finite(graph.graph.initializers["w"], "head")
