"""What is written of a profile: `profile.json`, the Chrome trace, the comparison, and the tables."""

from __future__ import annotations

import itertools
import json

import pytest
from rich.console import Console

from compress.core.artifact import Precision
from compress.core.errors import ConfigError
from compress.profile.analyze import analyze
from compress.profile.diff import compare
from compress.profile.document import read_profile
from compress.profile.layer import LayerTime, Recording, Span
from compress.profile.machine import MachineLimits
from compress.profile.trace import trace_events, write_trace
from compress.report.profile_tables import diff_view, profile_view
from compress.support.serialize import to_json

LIMITS = MachineLimits({Precision.FP32: 100.0, Precision.INT8: 400.0}, 10.0, 1.0, "measured")


def recording(*layers, measured_ms=None, overhead=0.05, disturbed=1.1):
    times = [LayerTime(name, op, ms, operations, moved) for name, op, ms, operations, moved in layers]
    spans, start = [], 0.0
    for layer in times:
        spans.append(Span(layer.name, layer.op, start, 1000 * layer.median_ms))
        start += 1000 * layer.median_ms + 1
    total = sum(layer.median_ms for layer in times)
    measured = measured_ms or total
    return Recording("onnxruntime 1", "a CPU", 1, 1, measured, disturbed, overhead, 20, tuple(times), tuple(spans))


CONV = ("conv1", "Conv", 2.0, 10**8, 10**5)
RELU = ("relu1", "Relu", 0.5, 10**5, 8 * 10**5)
GEMM = ("fc", "Gemm", 0.5, 10**6, 4 * 10**6)


def text(view, width=80):
    console = Console(width=width, record=True, force_terminal=False, highlight=False)
    with console.capture() as captured:
        console.print(view)
    return captured.get()


def test_the_stored_document_is_the_agreed_one(tmp_path):
    found = analyze(recording(CONV, RELU, GEMM), LIMITS, "net.onnx")
    document = json.loads(to_json(found))
    assert list(document) == ["schema", "file", "runtime", "device", "threads", "batch", "model", "roofline", "layers"]
    assert list(document["model"]) == [
        "measured_ms",
        "sum_ms",
        "overhead_ms",
        "bottleneck",
        "profiling_overhead",
        "advice",
    ]
    assert list(document["roofline"]) == ["peak_gflops", "bandwidth_gb_s", "source", "launch_us"]
    assert list(document["layers"][0]) == [
        *("name", "op", "median_ms", "share", "operations", "bytes", "intensity", "bottleneck", "advice")
    ]
    assert document["schema"] == 1
    assert [layer["bottleneck"] for layer in document["layers"]] == ["compute", "bandwidth", "bandwidth"]
    assert sum(layer["share"] for layer in document["layers"]) == pytest.approx(1)
    assert document["layers"][0]["intensity"] == 1000
    (tmp_path / "profile.json").write_bytes(to_json(found))
    assert read_profile(tmp_path / "profile.json") == found


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"schema": 1}'])
def test_a_damaged_document_is_one_line(tmp_path, content):
    path = tmp_path / "profile.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"is not a profile: .* fix: profile the model again"):
        read_profile(path)


def test_a_document_of_another_version(tmp_path):
    path = tmp_path / "profile.json"
    path.write_bytes(to_json(analyze(recording(CONV), LIMITS, "n")).replace(b'"schema": 1', b'"schema": 9'))
    with pytest.raises(ConfigError, match="has schema 9, this program reads 1"):
        read_profile(path)


@pytest.mark.parametrize(
    ("measured_ms", "words"),
    [(3.0, None), (3.2, None), (4.0, "75% of the measured call"), (2.0, "150% of the measured call")],
)
def test_layers_that_do_not_add_up_say_so(measured_ms, words):
    found = analyze(recording(CONV, RELU, GEMM, measured_ms=measured_ms), LIMITS, "n")
    assert found.model.overhead_ms == pytest.approx(measured_ms - 3)
    if words is None:
        assert "add up" not in found.model.advice
    else:
        assert words in found.model.advice
        assert words in " ".join(text(profile_view(found)).split())


def test_a_busy_machine_is_named_as_the_reason():
    taken = recording(CONV, RELU, GEMM, measured_ms=5.0, disturbed=2.4)
    assert "the median call takes 2.4 times the quickest" in analyze(taken, LIMITS, "n").model.advice


def test_the_trace_is_valid_and_names_everything(tmp_path):
    taken = recording(CONV, RELU, GEMM)
    found = analyze(taken, LIMITS, "net.onnx")
    write_trace(tmp_path / "trace.json", found, taken.spans)
    document = json.loads((tmp_path / "trace.json").read_text())
    assert document["displayTimeUnit"] == "ms"
    events = document["traceEvents"]
    for event in events:
        assert event["ph"] in ("X", "M", "C")
        assert isinstance(event["name"], str)
        assert event["name"]
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        assert isinstance(event["ts"], int | float)
        assert event["ph"] != "X" or event["dur"] >= 0
        assert event["ph"] != "C" or all(isinstance(value, int | float) for value in event["args"].values())
    names = {event["name"]: event["args"]["name"] for event in events if event["ph"] == "M" and event["tid"] != 1}
    assert names == {"process_name": "net.onnx in onnxruntime 1, batch 1, 1 thread(s)", "thread_name": "layers"}
    layers = [event for event in events if event["ph"] == "X" and event["cat"] != "call"]
    assert [event["name"] for event in layers] == ["conv1", "relu1", "fc"]
    assert layers[0]["args"]["bottleneck"] == "compute"
    call = next(event for event in events if event["ph"] == "X" and event["cat"] == "call")
    assert all(event["ts"] + event["dur"] <= call["ts"] + call["dur"] for event in layers)
    for before, after in itertools.pairwise(layers):  # Perfetto stacks what overlaps
        assert before["ts"] + before["dur"] <= after["ts"]


def test_a_layer_that_is_only_in_the_trace_has_no_class():
    found = analyze(recording(CONV), LIMITS, "n")
    events = trace_events(found, [Span("other", "Op", 0.0, 1.0)])
    assert next(event for event in events if event["name"] == "other")["args"] == {"op": "Op"}


def pairs(before, after):
    return [
        (pair.before and pair.before.name, pair.after and pair.after.name, pair.note)
        for pair in compare(analyze(recording(*before), LIMITS, "a"), analyze(recording(*after), LIMITS, "b"))
    ]


def layer(name, op, ms=1.0):
    return (name, op, ms, 10**6, 10**5)


def test_layers_are_matched_by_name_then_by_kind_in_order():
    before = [layer("c1", "Conv"), layer("r1", "Relu"), layer("c2", "Conv"), layer("fc", "Gemm")]
    after = [layer("c1_nchwc", "FusedConv"), layer("q7", "QLinearConv"), layer("linear", "QGemm")]
    assert pairs(before, after) == [
        ("c1", "c1_nchwc", ""),
        ("r1", None, "fused or removed, after c1_nchwc"),
        ("c2", "q7", ""),
        ("fc", "linear", ""),
    ]


def test_a_fused_layer_is_named_by_the_one_that_holds_its_name():
    before = [layer("conv", "Conv"), layer("act", "Relu"), layer("pool", "MaxPool")]
    after = [layer("act;conv", "FusedConv"), layer("q", "QuantizeLinear")]
    assert pairs(before, after) == [
        ("conv", "act;conv", ""),
        ("act", None, "fused into act;conv"),
        ("pool", None, "gone"),
        (None, "q", "new"),
    ]


def test_one_name_used_for_another_kind_is_no_match():
    assert pairs([layer("a", "Conv")], [layer("a", "Relu")]) == [("a", None, "gone"), (None, "a", "new")]


def test_a_profile_equals_itself():
    found = analyze(recording(CONV, RELU, GEMM), LIMITS, "n")
    assert [pair.change_ms for pair in compare(found, found)] == [0, 0, 0]


def test_tables_are_readable_at_80_columns():
    many = [layer(f"features.{index}.block.with.a.long.name.0.conv", "QLinearConv", 1 + index) for index in range(40)]
    found = analyze(recording(*many), LIMITS, "net.onnx")
    other = analyze(recording(*many[:30]), LIMITS, "smaller.onnx")
    shown = text(profile_view(found, top=5))
    lines = shown.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    rows = [line for line in lines if line.startswith("features.")]
    assert len(rows) == 5
    assert [row.split()[2] for row in rows] == ["40.0", "39.0", "38.0", "37.0", "36.0"]
    assert "35 more" in shown
    assert "40 layers" in shown
    assert "profiling itself slows a call by 5%" in " ".join(shown.split())
    assert "bottleneck: " in shown
    compared = text(diff_view(found, other, compare(found, other), top=5))
    assert max(len(line.rstrip()) for line in compared.splitlines()) <= 80
    assert "whole call, measured" in compared
    assert "gone: " in compared
