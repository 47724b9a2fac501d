"""Folding, merging and stripping, on graphs small enough to read."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from compress.formats.onnx.tidy import tidy


def tidied(body: str, initializers: str, x: str = "float[2,3]", y: str = "float[2,3]") -> ir.Model:
    text = f"""<ir_version: 10, opset_import: ["" : 20, "unused.domain" : 1]>
    g ({x} x) => ({y} y) <{initializers}> {{ {body} }}"""
    proto = onnx.parser.parse_model(text)
    for node in proto.graph.node:
        node.doc_string = "a stack trace"
        node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="more of it")
    model = ir.serde.deserialize_model(proto)
    tidy(model)
    return model


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_constants_fold_and_debugging_metadata_goes():
    model = tidied("c = Add(a, b)\n i = Identity(x)\n y = Mul(i, c)", "float[3] a = {1,2,3}, float[3] b = {1,1,1}")
    assert operators(model) == ["Mul"]
    assert len(model.graph.initializers) == 1
    assert dict(model.opset_imports) == {"": 20}
    node = next(iter(model.graph))
    assert not node.metadata_props
    assert not node.doc_string


def test_scalars_and_vectors_of_one_value_stay_apart():
    """`[]` and `[1]` hold the same bytes; as a Gather index they give different ranks."""
    model = tidied(
        "g = Gather<axis=0>(x, s)\n h = Gather<axis=0>(x, v)\n y = Add(g, h)",
        "int64 s = {1}, int64[1] v = {1}, int64[1] w = {1}",
        y="float[1,3]",
    )
    assert sorted(tuple(value.shape.numpy()) for value in model.graph.initializers.values()) == [(), (1,)]


def test_large_equal_weights_are_merged():
    ones = ", ".join(["1"] * 2500)
    model = tidied(
        "a = MatMul(x, p)\n b = MatMul(a, q)\n y = MatMul(b, p)",
        f"float[50,50] p = {{{ones}}}, float[50,50] q = {{{ones}}}",
        x="float[2,50]",
        y="float[2,50]",
    )
    assert len(model.graph.initializers) == 1


def test_quantized_weights_are_not_unpacked():
    model = tidied(
        "f = DequantizeLinear(w, s, z)\n m = MatMul(x, f)\nq = QuantizeLinear(m, s, z)\n y = DequantizeLinear(q, s, z)",
        "int8[3,3] w = {1,2,3,4,5,6,7,8,9}, float s = {0.5}, int8 z = {0}",
    )
    assert operators(model) == ["DequantizeLinear", "MatMul", "QuantizeLinear", "DequantizeLinear"]
    assert model.graph.initializers["w"].dtype == ir.DataType.INT8


def test_what_is_known_from_shapes_alone_is_folded():
    """Also where a shape is known only after another part was folded."""
    body = """w = Add(v, v)
        wide = Expand(x, w)
        size = Shape(wide)
        y = Reshape(wide, size)"""
    model = tidied(body, "int64[2] v = {2,0}", x="float[1,3]", y="float[4,3]")
    assert not {"Shape", "Add"} & set(operators(model))
