"""What is read from ONNX Runtime's profiler, and the inputs and names it is given."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import helper
from small_models import save, tiny_operators

from compress.core.artifact import Format, Precision
from compress.core.errors import ConfigError, StageError
from compress.profile.analyze import profile
from compress.profile.layer import Settings, Source
from compress.profile.ort_cost import ProfilerCost, launch_us, profiler_cost
from compress.profile.ort_events import median_us, read_calls
from compress.profile.readers import find_reader
from compress.profile.readers import onnx as onnx_reader
from compress.profile.readers.onnx import record

QUICK = Settings(seconds=1.0, runs=20)


def conv_net(path, batch="N", size=16):
    """Conv, Relu (fused by ONNX Runtime), Flatten, Gemm; nothing has a name. 16 channels fill whole vectors."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("Gemm", ["f", "g"], ["y"], transB=1),
    ]
    constants = [
        ("w", random.standard_normal((16, 3, 3, 3), dtype=np.float32)),
        ("g", random.standard_normal((10, 16 * size * size), dtype=np.float32)),
    ]
    return save(path, nodes, {"x": [batch, 3, size, size]}, {"y": [batch, 10]}, constants)


def source(path):
    return Source(Format.ONNX, path, Precision.FP32)


@pytest.mark.parametrize("batch", [1, 4])
def test_operations_and_bytes_of_a_fused_network(tmp_path, batch):
    found = record(source(conv_net(tmp_path / "net.onnx")), Settings(seconds=1.0, runs=20, batch=batch))
    layers = {layer.op: layer for layer in found.layers}
    assert found.batch == batch
    assert "Relu" not in layers  # fused
    assert layers["Conv"].operations == 2 * batch * 16 * 16 * 16 * 27
    assert layers["Conv"].bytes == 4 * (batch * (3 + 16) * 256 + 16 * 27)
    assert layers["Gemm"].operations == 2 * batch * 10 * 4096
    assert layers["Gemm"].bytes == 4 * (batch * (4096 + 10) + 40960)  # the weight is packed, and counted all the same
    assert all(layer.median_ms > 0 for layer in found.layers)


def test_the_call_whose_layers_are_kept_has_all_of_them_in_order(tmp_path):
    found = record(source(tiny_operators(tmp_path / "tiny.onnx", 30)), QUICK)
    assert [span.name for span in found.spans] == [layer.name for layer in found.layers]
    starts = [span.start_us for span in found.spans]
    assert starts == sorted(starts)
    assert found.runs >= 6
    assert found.profiling_overhead > -0.5


def test_nodes_without_a_name_are_told_apart(tmp_path):
    nodes = [
        helper.make_node("Neg", ["x"], ["a"]),
        helper.make_node("Abs", ["a"], ["b"], name="a"),
        helper.make_node("Neg", ["b"], ["c"]),
        helper.make_node("Abs", ["c"], ["y"], name="c"),
    ]
    path = save(tmp_path / "net.onnx", nodes, {"x": [4]}, {"y": [4]})
    before = path.read_bytes()
    found = record(source(path), QUICK)
    assert len({layer.name for layer in found.layers}) == 4
    assert [layer.op for layer in found.layers] == ["Neg", "Abs", "Neg", "Abs"]
    assert path.read_bytes() == before


def test_quantized_layers_count_as_integers(tmp_path):
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Images(CalibrationDataReader):
        left = 2

        def get_next(self):
            self.left -= 1
            return {"x": np.ones((1, 3, 16, 16), np.float32)} if self.left >= 0 else None

    conv_net(tmp_path / "net.onnx", batch=1)
    quantize_static(tmp_path / "net.onnx", tmp_path / "int8.onnx", Images())
    found = record(source(tmp_path / "int8.onnx"), QUICK)
    conv = next(layer for layer in found.layers if layer.op == "QLinearConv")
    assert conv.precision is Precision.INT8
    assert conv.operations == 2 * 16 * 16 * 16 * 27
    assert conv.bytes < 4 * ((3 + 16) * 256 + 16 * 27) / 2


def test_a_file_that_computes_nothing_when_run_is_refused(tmp_path):
    node = helper.make_node("Constant", [], ["y"], value=onnx.numpy_helper.from_array(np.ones(3, np.float32)))
    path = save(tmp_path / "net.onnx", [node], {}, {"y": [3]})
    with pytest.raises(ConfigError, match="has no input"):
        record(source(path), QUICK)


@pytest.mark.parametrize(
    ("shape", "batch", "message"),
    [
        (["N", 3, "H", "W"], None, r"dynamic shape \[N, 3, H, W\]; only the batch may be free \| fix: export it"),
        ([2, 3, 16, 16], 8, "fixed first dimension of 2, not batch 8"),
    ],
)
def test_shapes_that_cannot_be_filled_in(tmp_path, shape, batch, message):
    path = save(tmp_path / "net.onnx", [helper.make_node("Neg", ["x"], ["y"])], {"x": shape}, {"y": shape})
    with pytest.raises(ConfigError, match=message):
        record(source(path), Settings(batch=batch))


def test_a_graph_that_the_runtime_refuses(tmp_path):
    path = save(tmp_path / "net.onnx", [helper.make_node("NoSuchOp", ["x"], ["y"])], {"x": [1]}, {"y": [1]})
    with pytest.raises(StageError, match="ONNX Runtime cannot load"):
        record(source(path), QUICK)


def test_formats_and_runtimes_that_cannot_be_profiled():
    with pytest.raises(ConfigError, match=r"tflite file cannot be timed .*whole calls only.*onnx, tensorrt, torch"):
        find_reader(Format.TFLITE)
    with pytest.raises(ConfigError, match=r"'tvm' does not profile onnx files . fix: --runtime onnxruntime"):
        find_reader(Format.ONNX, "tvm")


def event(name, ts, dur, cat="Node", **args):
    return {"cat": cat, "name": name, "ts": ts, "dur": dur, "ph": "X", "pid": 1, "tid": 1, "args": args}


def test_events_belong_to_calls_and_not_to_nodes_around_them(tmp_path):
    events = [
        event("model_loading_uri", 0, 9, "Session"),
        event("model_run", 10, 50, "Session"),
        event("if_kernel_time", 12, 30, op_name="If", node_index="3"),
        event("inner_kernel_time", 15, 10, op_name="Add"),
        event("last_kernel_time", 42, 5, op_name="Neg", input_type_shape=[{"float": [2]}], activation_size="8"),
        event("model_run", 100, 40, "Session"),
        event("if_kernel_time", 101, 30, op_name="If"),
    ]
    (tmp_path / "events.json").write_text(json.dumps(events))
    calls = read_calls(tmp_path / "events.json")
    assert [[node.node for node in call.nodes] for call in calls] == [["if", "last"], ["if"]]
    assert calls[0].nodes[1].args.activation_size == 8
    assert calls[0].nodes[1].tensors == 1
    (tmp_path / "events.json").write_text("[{")
    with pytest.raises(StageError, match="profile cannot be read"):
        read_calls(tmp_path / "events.json")


def test_medians_resolve_fractions_of_the_microseconds_that_were_cut_off():
    assert median_us([2, 2, 2]) == 2.5
    assert 2 < median_us([1, 2, 2, 2, 2]) < median_us([2, 2, 2, 2, 3]) < 3


def test_the_profilers_own_work_is_measured_and_taken_off():
    assert ProfilerCost(5.0, 0.5).taken_off(20.0, 4) == 13.0
    assert ProfilerCost(5.0, 0.5).taken_off(1.0, 4) > 0
    cost = profiler_cost(1)
    assert 0 <= cost.fixed < 500
    assert 0 <= cost.per_tensor < 100
    assert launch_us(1) > 0


@pytest.mark.parametrize(("cost_us", "own_us"), [(0.0, None), (1e9, 0.05)])
def test_the_profilers_own_work_is_taken_off_every_layer(tmp_path, monkeypatch, cost_us, own_us):
    """Of a cost beyond all times only the least is left of each; without a cost every layer keeps what was seen."""
    monkeypatch.setattr(onnx_reader, "profiler_cost", lambda threads: ProfilerCost(cost_us, 0.0))
    found, _ = profile(source(tiny_operators(tmp_path / "tiny.onnx")), find_reader(Format.ONNX), QUICK)
    times = [1000 * layer.median_ms for layer in found.layers]
    assert len(times) == 300
    assert times == pytest.approx([own_us] * 300) if own_us else min(times) > 0.05
