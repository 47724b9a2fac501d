"""The profile stage changes nothing, and its files come with the run."""

from __future__ import annotations

import json
from dataclasses import replace

import onnx
import pytest
import torch
from doubles import stage_context
from onnx import TensorProto, helper
from torch import nn

from compress.config.schema import build_stages, load_target
from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.errors import Refusal
from compress.core.measurement import Measurement
from compress.pipeline.deliver import copy_artifacts, copy_reports
from compress.pipeline.execute import Output, Result
from compress.pipeline.plan import Pipeline
from compress.pipeline.store import StageStore
from compress.profile.document import read_profile
from compress.stages.inspect.profile import Profile

SPEC = InputSpec((3, 8, 8))
PI = load_target("raspberry_pi_4", [])


class Log:
    def __init__(self):
        self.lines = []

    def log(self, message):
        self.lines.append(message)


@pytest.fixture
def artifact(tmp_path):
    """An exported file of an earlier stage."""
    nodes = [helper.make_node("Neg", ["x"], ["a"]), helper.make_node("Abs", ["a"], ["y"])]
    ports = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 3, 8, 8])] for n in ("x", "y")]
    path = tmp_path / "earlier" / "to_onnx.onnx"
    path.parent.mkdir()
    graph = helper.make_graph(nodes, "g", *ports)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return Artifact(Format.ONNX, path, Precision.FP32, SPEC, history=("to_onnx",))


def run(stage, artifact, folder, name="profile"):
    folder.mkdir()
    log = Log()
    return stage.run(artifact, stage_context(name, target=PI, folder=folder, log=log)), log


def test_a_file_is_handed_on_with_its_profile(tmp_path, artifact):
    after, log = run(Profile(seconds=0.3, batch=2), artifact, tmp_path / "stage")
    assert after.path.read_bytes() == artifact.path.read_bytes()
    assert (after.history, after.precision, after.format) == (("to_onnx",), Precision.FP32, Format.ONNX)
    assert [path.name for path in after.attachments] == ["profile.json", "trace.json"]
    found = read_profile(after.attachments[0])
    assert (found.file, found.batch, found.roofline.source) == ("to_onnx.onnx", 2, "measured")
    assert json.loads(after.attachments[1].read_text())["traceEvents"]
    assert after.notes["profile"] == f"{found.model.bottleneck}: {found.model.advice}"
    assert log.lines == [f"profile: {after.notes['profile']}"]


def test_the_targets_peaks_and_the_stages_own_name(tmp_path, artifact):
    after, _ = run(Profile(seconds=0.3, limits="published"), artifact, tmp_path / "stage", "fast")
    assert [path.name for path in after.attachments] == ["fast.profile.json", "fast.trace.json"]
    assert read_profile(after.attachments[0]).roofline.source == "published"


def test_a_module_is_handed_on_as_it_is(tmp_path):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()).eval()
    before = Artifact(Format.TORCH, module, Precision.FP32, SPEC, history=("fold",))
    after, _ = run(Profile(seconds=0.2), before, tmp_path / "stage")
    assert after.module is module
    assert [layer.op for layer in read_profile(after.attachments[0]).layers] == ["Conv2d", "Flatten"]


def test_it_takes_the_format_it_is_given_and_does_not_lend_it_to_others():
    stages = build_stages(
        {
            "to_onnx": {"_target_": "compress.stages.export.to_onnx.ToOnnx"},
            "profile": {"_target_": "compress.stages.inspect.profile.Profile"},
        },
        lambda package: False,
    )
    steps = Pipeline.check(PI, stages, Format.TORCH).steps
    assert [(step.name, step.format, step.feed) for step in steps] == [
        ("to_onnx", Format.ONNX, "source"),
        ("profile", Format.ONNX, "to_onnx"),
    ]
    with pytest.raises(Refusal, match="takes onnx or torch, but only tflite comes before it"):
        Pipeline.check(PI, {"profile": Profile()}, Format.TFLITE)


def test_the_run_folder_has_the_file_once_and_the_profile_beside_it(tmp_path, artifact):
    store = StageStore(tmp_path / "store")
    after, _ = run(Profile(seconds=0.2), artifact, store.folder("key"))
    store.save("key", after, 1.0, 1, source=None)
    row = Measurement("profile", Format.ONNX, Precision.FP32, "onnxruntime")
    kept = store.load("key", source=None)
    folder = tmp_path / "run"
    folder.mkdir()
    results = [Result(replace(row, handed_on=True), Output("key", lambda: kept))]
    assert copy_artifacts(results, folder) == {}
    copy_reports(results, store, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["profile.json", "trace.json"]


def test_the_profile_of_a_module_is_delivered_though_the_module_is_not(tmp_path):
    store = StageStore(tmp_path / "store")
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()).eval()
    before = Artifact(Format.TORCH, module, Precision.FP32, SPEC)
    after, _ = run(Profile(seconds=0.2), before, store.folder("key"))
    store.save("key", after, 1.0, 1, source=module)
    row = Measurement("profile", Format.TORCH, Precision.FP32, "torch")
    folder = tmp_path / "run"
    folder.mkdir()
    copy_reports([Result(replace(row, handed_on=True), Output("key", lambda: after))], store, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["profile.json", "trace.json"]
    assert isinstance(store.load("key", source=module).module, nn.Module)
    assert torch.is_inference_mode_enabled() is False
