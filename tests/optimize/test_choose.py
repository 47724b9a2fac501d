"""The verdict on passes that help, do nothing, break a promise, compute something else, crash or slow things down."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
from text_graphs import SPEC, graph, images, kinds, network, quantized, run, saved, unpacked, with_weights

from compress.core.artifact import Precision
from compress.core.measurement import LatencyRatio
from compress.optimize import choose as choosing
from compress.optimize.choose import Bench, Chosen, choose, clearly_slower
from compress.optimize.equivalence import Equivalence
from compress.optimize.facts import graph_facts
from compress.optimize.pass_names import PORTABLE
from compress.optimize.passes import ONNXRUNTIME_ONLY, PASSES, GraphPass, passes


def tried(model, candidates, folder, precision=Precision.FP32):
    """What choosing among `candidates` makes of `model`."""
    artifact = saved(model, folder / "source.onnx", precision)
    bench = Bench(artifact, Equivalence(artifact, [images()], threads=1), 0.1, {})
    source = Chosen(onnx.load(artifact.path), artifact.path, graph_facts(artifact.path))
    told = []
    chosen, attempts = choose(source, candidates, bench, folder, told.append)
    assert told == list(attempts)
    return chosen, attempts


def only(model, edit, folder, precision=Precision.FP32):
    """The one attempt with a pass that is `edit`; and that the source was kept if it did not help."""
    chosen, (attempt,) = tried(model, [GraphPass("edit", "made for this test", edit)], folder, precision)
    assert attempt.outcome == "kept" or kinds(chosen.model) == kinds(model)
    return attempt


def messy() -> onnx.ModelProto:
    """A graph as an exporter without optimizer leaves it: one of everything that is to go."""
    body = """
        shape = Shape(x)
        first = Gather(shape, zero)
        batch = Unsqueeze(first, axis)
        p = Pad(x, pads)
        c = Conv(p, w)
        b = BatchNormalization(c, gamma, beta, mean, var)
        t = Transpose<perm=[0,2,3,1]>(b)
        u = Transpose<perm=[0,3,1,2]>(t)
        one = Relu(u)
        two = Relu(u)
        sum = Add(one, two)
        i = Identity(sum)
        unused = Sigmoid(i)
        m = GlobalAveragePool(i)
        rest = Concat<axis=0>(batch, size)
        f = Reshape(m, rest)
        k = Transpose<perm=[1,0]>(v)
        y = MatMul(f, k)"""
    constants = "int64 zero = {0}, int64[1] axis = {0}, int64[8] pads = {0,0,1,1,0,0,1,1}, int64[1] size = {-1}"
    model = graph(body, constants)
    model = with_weights(model, w=(8, 3, 3, 3), gamma=(8,), beta=(8,), mean=(8,), v=(4, 8))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.linspace(0.5, 2, 8, dtype=np.float32), "var"))
    return model


def test_every_kind_of_waste_goes_and_the_outputs_stay(tmp_path):
    chosen, attempts = tried(messy(), passes(PORTABLE, "aarch64"), tmp_path)
    left = kinds(chosen.model)
    assert set(left) <= {"Conv", "Relu", "Add", "Mul", "GlobalAveragePool", "Reshape", "Flatten", "MatMul", "Gemm"}
    assert (left.count("Conv"), left.count("Relu"), len(left)) == (1, 1, 6)
    np.testing.assert_allclose(run(chosen.model, images(1)), run(messy(), images(1)), atol=1e-5)
    outcomes = {attempt.name: attempt for attempt in attempts}
    assert outcomes["onnxscript"].outcome == "kept"
    assert outcomes["onnxscript"].reason.startswith("1")
    assert "nodes fewer" in outcomes["onnxscript"].reason
    assert outcomes["saturation"].outcome == "changes nothing"
    assert max(attempt.max_abs_error or 0 for attempt in attempts) < 1e-5


@pytest.mark.parametrize("name", ["onnxscript", "onnxslim", "ort_basic"])
def test_each_library_folds_batch_normalization_and_pads(tmp_path, name):
    chosen, (attempt,) = tried(messy(), passes([name], "aarch64"), tmp_path)
    assert attempt.outcome == "kept", attempt.reason
    assert not {"BatchNormalization", "Identity", "Sigmoid"} & set(kinds(chosen.model))
    assert len(kinds(chosen.model)) <= 11


def test_a_quantized_graph_loses_its_activations_and_nothing_else(tmp_path):
    chosen, attempts = tried(quantized(), passes(PORTABLE, "aarch64"), tmp_path, Precision.INT8)
    gone = set(kinds(quantized())) - set(kinds(chosen.model))
    assert gone == {"Relu"}
    assert kinds(chosen.model).count("DequantizeLinear") == 3
    assert chosen.facts.size_bytes < graph_facts(tmp_path / "source.onnx").size_bytes * 1.01
    assert chosen.facts.run_operators["QLinearConv"] == 1
    assert next(attempt for attempt in attempts if attempt.name == "saturation").max_abs_error == 0


def test_symmetric_quantization_as_tensorrt_wants_it_stays_as_it_is(tmp_path):
    model = quantized(0, "int8")
    model.graph.node[4].output[0] = "r"
    for node in model.graph.node:
        node.input[:] = ["z" if name == "z1" else name for name in node.input]
    chosen, _ = tried(model, passes(PORTABLE, "aarch64"), tmp_path, Precision.INT8)
    assert sorted(kinds(chosen.model)) == sorted(kinds(model))


def test_unpacked_weights_are_not_kept(tmp_path):
    attempt = only(quantized(), unpacked, tmp_path, Precision.INT8)
    assert (attempt.outcome, attempt.reason) == ("not kept", "it unpacks weights that are stored in 8 bits")


def test_a_pass_that_computes_something_else_failed(tmp_path):
    def wrong(model):
        next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Abs"
        return model

    attempt = only(network(), wrong, tmp_path)
    assert attempt.outcome == "failed"
    assert attempt.reason.startswith("it computes something else: largest difference is")
    assert attempt.max_abs_error > 1e-3


def test_a_pass_that_gives_nan_failed(tmp_path):
    def broken(model):
        next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Log"
        return model

    assert "NaN or infinity" in only(network(), broken, tmp_path).reason


def test_a_pass_that_crashes_or_writes_nonsense_failed(tmp_path):
    def crashes(model):
        raise KeyError("an operator it has never seen")

    def nonsense(model):
        del model.graph.node[0]
        return model

    attempt = only(network(), crashes, tmp_path)
    assert (attempt.outcome, attempt.reason) == ("failed", "KeyError: 'an operator it has never seen'")
    assert only(network(), nonsense, tmp_path).outcome == "failed"


def test_more_nodes_or_bytes_are_not_kept(tmp_path):
    def more(model):
        model.graph.node[1].output[0] = "r0"
        model.graph.node.insert(2, onnx.helper.make_node("Neg", ["r0"], ["r1"]))
        model.graph.node.insert(3, onnx.helper.make_node("Neg", ["r1"], ["r"]))
        return model

    def larger(model):
        kernel = onnx.numpy_helper.to_array(model.graph.initializer[0])
        padded = np.pad(kernel, ((0, 0), (0, 0), (3, 3), (3, 3)))
        model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(padded, "w"))
        model.graph.node[0].attribute[0].ints[:] = [4, 4, 4, 4]
        return model

    assert only(network(), more, tmp_path).reason == "2 nodes more"
    assert "as large" in only(network(), larger, tmp_path).reason


def test_a_pass_that_only_renames_changes_nothing(tmp_path):
    def renames(model):
        for node in model.graph.node:
            node.name = f"renamed_{node.op_type}"
        return model

    attempt = only(network(), renames, tmp_path)
    assert (attempt.outcome, attempt.reason) == ("changes nothing", "nothing to do")


def test_fewer_nodes_that_take_longer_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(Bench, "race", lambda self, first, second: LatencyRatio(1.2, 1.1, 1.3, 100))
    _, (attempt,) = tried(messy(), passes(["onnxscript"], "aarch64"), tmp_path)
    assert (attempt.outcome, attempt.reason) == ("not kept", "slower")


def test_a_race_says_which_file_is_slower(tmp_path):
    slow = "c = Conv<pads=[3,3,3,3]>(x, w) m = ReduceMean<axes=[2,3], keepdims=0>(c) y = Gemm<transB=1>(m, v)"
    slow_model = with_weights(graph(slow), w=(256, 3, 7, 7), v=(4, 256))
    first, second = saved(slow_model, tmp_path / "slow.onnx"), saved(network(), tmp_path / "fast.onnx")
    bench = Bench(second, Equivalence(second, [images(1)], threads=1), 0.2, {})
    found = bench.race(first.path, second.path)
    assert clearly_slower(found)
    assert found.low <= found.ratio <= found.high
    assert not clearly_slower(bench.race(second.path, first.path))


def test_the_extended_level_brings_fused_operators_only_where_they_are_wanted(tmp_path):
    chosen, attempts = tried(network(), passes(["pooling", ONNXRUNTIME_ONLY], "aarch64"), tmp_path)
    assert [attempt.outcome for attempt in attempts] == ["kept", "kept"], attempts[1].reason
    assert kinds(chosen.model) == ["FusedConv", "ReduceMean", "Gemm"]
    assert chosen.onnxruntime_only
    assert chosen.facts.peak_activation_bytes == graph_facts(tmp_path / "source.onnx").peak_activation_bytes
    basic, _ = tried(network(), passes(PORTABLE, "aarch64"), tmp_path)
    assert kinds(basic.model) == ["Conv", "Relu", "ReduceMean", "Gemm"]


def test_hardswish_is_put_together_where_the_opset_has_it(tmp_path):
    body = """
        c = Conv<pads=[1,1,1,1]>(x, w)
        a = Add(c, three)
        l = Clip(a, none, six)
        h = Mul(l, c)
        s = Div(h, six)
        m = ReduceMean<axes=[2,3], keepdims=0>(s)
        y = Gemm<transB=1>(m, v)"""
    constants = "float three = {3}, float none = {0}, float six = {6}"
    for opset, operator in ((14, True), (13, False)):
        model = with_weights(graph(body, constants, opset=opset), w=(8, 3, 3, 3), v=(4, 8))
        chosen, _ = tried(model, passes(["hardswish"], "aarch64"), tmp_path)
        assert ("HardSwish" in kinds(chosen.model)) is operator


def test_every_name_has_a_pass():
    assert [*PORTABLE, ONNXRUNTIME_ONLY] == list(PASSES)
    assert choosing.THREADS == 1
    assert SPEC.shape == (3, 8, 8)
