"""What no pass may lose, each shown by a rewriting that loses it."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.numpy_helper
from text_graphs import graph, network, quantized, unpacked

from compress.optimize.guard import broken_promise


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    return made


def test_an_equal_graph_keeps_everything():
    assert broken_promise(network(), copied(network()), onnxruntime_only=False) is None
    assert broken_promise(quantized(), copied(quantized()), onnxruntime_only=False) is None


def test_the_interface_stays():
    for change in (
        lambda g: setattr(g.output[0], "name", "z"),
        lambda g: setattr(g.input[0].type.tensor_type, "elem_type", 10),
    ):
        after = copied(network())
        change(after.graph)
        assert "inputs and outputs" in broken_promise(network(), after, onnxruntime_only=True)
    after = graph("y = Relu(x)", x="float[N,3]", y="float[N,3]")
    assert (
        broken_promise(graph("y = Relu(x)", x="float[batch,3]", y="float[batch,3]"), after, onnxruntime_only=False)
        is None
    )
    fixed = graph("y = Relu(x)", x="float[1,3]", y="float[1,3]")
    assert "shapes" in broken_promise(after, fixed, onnxruntime_only=False)


def test_the_opset_does_not_rise_but_may_fall():
    after = copied(network())
    after.opset_import[0].version = 18
    assert broken_promise(network(), after, onnxruntime_only=False) == "it raises the opset from 17 to 18"
    assert broken_promise(after, network(), onnxruntime_only=False) is None


def test_other_runtimes_get_no_operators_of_onnxruntime():
    after = copied(network())
    after.graph.node[1].domain = "com.microsoft"
    problem = broken_promise(network(), after, onnxruntime_only=False)
    assert problem == "it brings com.microsoft.Relu, which only ONNX Runtime executes"
    assert broken_promise(network(), after, onnxruntime_only=True) is None
    assert broken_promise(after, copied(after), onnxruntime_only=False) is None, "it had them before"


def test_folding_the_dequantization_of_a_weight_is_caught():
    """What a simplifier does that takes DequantizeLinear for a constant node; the file grows towards four times."""
    after = unpacked(quantized())
    onnx.checker.check_model(after, full_check=True)
    assert after.ByteSize() > 2 * quantized().ByteSize()
    for own in (True, False):
        assert (
            broken_promise(quantized(), after, onnxruntime_only=own) == "it unpacks weights that are stored in 8 bits"
        )


def test_lost_conversions_are_counted_and_equal_ones_may_merge():
    after = copied(quantized())
    relu, first = (next(n for n in after.graph.node if n.op_type == kind) for kind in ("Conv", "QuantizeLinear"))
    relu.input[0] = first.input[0]
    after.graph.node.remove(next(n for n in after.graph.node if n.output[0] == "d0"))
    after.graph.node.remove(first)
    assert "it drops 1 of 2 QuantizeLinear" in broken_promise(quantized(), after, onnxruntime_only=False)
    assert broken_promise(quantized(), after, onnxruntime_only=True) is None

    twice = """
        q = QuantizeLinear(x, s, z)
        p = QuantizeLinear(x, t, z)
        a = DequantizeLinear(q, s, z)
        b = DequantizeLinear(p, t, z)
        y = Add(a, b)"""
    once = "q = QuantizeLinear(x, s, z) a = DequantizeLinear(q, s, z) y = Add(a, a)"
    constants = "float s = {0.1}, float t = {0.1}, uint8 z = {0}"
    before, merged = (graph(body, constants, x="float[4]", y="float[4]") for body in (twice, once))
    assert broken_promise(before, merged, onnxruntime_only=False) is None


def test_a_weight_stored_twice_may_be_stored_once():
    before = copied(quantized())
    again = onnx.numpy_helper.to_array(next(t for t in before.graph.initializer if t.name == "wq"))
    before.graph.initializer.append(onnx.numpy_helper.from_array(np.array(again), "again"))
    assert broken_promise(before, quantized(), onnxruntime_only=False) is None
