"""The stage on exported networks: what it hands over, records and refuses."""

from __future__ import annotations

import json
from collections import Counter
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
import torchvision
from doubles import stage_context
from pydantic import ValidationError
from torch import nn
from torchvision.models.mobilenetv3 import InvertedResidualConfig as V3

from compress.config.schema import load_target
from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.errors import Refusal, StageError
from compress.core.stage import Batch
from compress.formats import runtimes
from compress.formats.onnx.runtime import load
from compress.optimize.document import Optimization
from compress.optimize.pass_names import PORTABLE
from compress.quantization.fused import count_fused
from compress.stages.export.to_onnx import ToOnnx
from compress.stages.optimize.optimize_graph import OptimizeGraph
from compress.stages.quantize.ptq_static import PtqStatic
from compress.support.serialize import from_json

SPEC = InputSpec((3, 32, 32))
FAST = {"seconds": 0.1, "samples": 4}


class Images:
    name = "calibration"

    def __init__(self, spec, count=8):
        self.samples = np.random.default_rng(0).standard_normal((count, *spec.shape)).astype(np.float32)

    def __len__(self):
        return len(self.samples)

    def batches(self, size, *, order=None):
        for start in range(0, len(self), size):
            part = self.samples[start : start + size]
            yield Batch(part, np.zeros(len(part), np.int64))

    def digest(self):
        return ""


class Log:
    def __init__(self):
        self.lines = []

    def track(self, items, description, total=None):
        yield from items

    def log(self, message):
        self.lines.append(message)


def context(folder, name="optimize", *, target="raspberry_pi_4", spec=SPEC, log=None):
    splits = SimpleNamespace(calibration=Images(spec))
    return stage_context(name, target=target, splits=splits, folder=folder, log=log)


def module(network: nn.Module, spec=SPEC) -> Artifact:
    torch.manual_seed(0)
    for part in network.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.normal_(part.weight, 0, (2 / part.weight[0].numel()) ** 0.5)
    return Artifact(Format.TORCH, network.eval(), Precision.FP32, spec)


@lru_cache
def exported(network, precision=Precision.FP32, target="raspberry_pi_4", **options) -> Artifact:
    """The network as an ONNX file, which is shared and nobody changes."""
    folder = Path(mkdtemp())
    source = module(network())
    if precision is Precision.INT8:
        source = PtqStatic().run(source, context(folder, "ptq", target=target))
    return ToOnnx(**options).run(source, context(folder, "to_onnx", target=target))


class Residual(nn.Module):
    """One residual block between a stem and a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.first, self.second = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))

    def forward(self, x):
        x = self.stem(x).relu()
        return self.head((x + self.second(self.first(x).relu())).relu())


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 4))


def mobilenet_v3():
    settings = [V3(16, 3, 16, 16, True, "RE", 2, 1, 1), V3(16, 5, 64, 24, True, "HS", 1, 1, 1)]
    return torchvision.models.MobileNetV3(settings, last_channel=64, num_classes=10)


def operators(artifact: Artifact) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(artifact.path).graph.node)


def logits(artifact: Artifact, **options) -> np.ndarray:
    return load(artifact, threads=1, **options)(Images(artifact.input, 4).samples)


@pytest.mark.parametrize("network", [Residual, mobilenet_v3])
def test_a_float_network_gets_smaller_and_stays_equal(tmp_path, network):
    source, log = exported(network), Log()
    made = OptimizeGraph(**FAST).run(source, context(tmp_path, log=log))
    assert (made.format, made.precision, made.history) == (Format.ONNX, Precision.FP32, ("to_onnx", "optimize"))
    assert operators(source) - operators(made) == Counter({"Reshape": 1})
    np.testing.assert_allclose(logits(made), logits(source), atol=1e-5)
    model = onnx.load(made.path)
    onnx.checker.check_model(model, full_check=True)
    text = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(text["history"]) == ["to_onnx", "optimize"]
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 17}
    assert "optimize: onnxslim changes nothing: nothing to do" in log.lines
    assert any(line.startswith("optimize: pooling kept: 1 node fewer") for line in log.lines)


def test_int8_keeps_its_integers_its_size_and_what_is_fused(tmp_path):
    source = exported(Residual, Precision.INT8)
    made = OptimizeGraph(**FAST).run(source, context(tmp_path))
    before, after = operators(source), operators(made)
    assert before - after == Counter({"Relu": 3})
    assert not after - before
    assert made.path.stat().st_size < 1.01 * source.path.stat().st_size
    fused, was = count_fused(made.path), count_fused(source.path)
    assert (fused.integer, fused.float, fused.conversions) == (was.integer, was.float, was.conversions)
    for options in ({}, {"fused": False}):
        np.testing.assert_array_equal(logits(made, **options), logits(source, **options))


@pytest.mark.slow
def test_resnet18_in_int8_does_not_grow(tmp_path):
    source = exported(torchvision.models.resnet18, Precision.INT8)
    made = OptimizeGraph(**FAST).run(source, context(tmp_path))
    assert made.path.stat().st_size <= source.path.stat().st_size
    assert made.path.stat().st_size < 12 << 20
    assert count_fused(made.path).integer["QLinearConv"] == 20
    assert operators(source) - operators(made) == Counter({"Relu": 17})


def test_tensorrt_keeps_its_plain_symmetric_q_dq(tmp_path):
    source = exported(Residual, Precision.INT8, "jetson_xavier_nx")
    made = OptimizeGraph(**FAST).run(source, context(tmp_path, target="jetson_xavier_nx"))
    for kind in ("QuantizeLinear", "DequantizeLinear", "Relu", "Conv"):
        assert operators(made)[kind] == operators(source)[kind]
    model = onnx.load(made.path)
    assert {node.domain for node in model.graph.node} == {""}
    assert model.opset_import[0].version <= 17


def test_the_record_says_what_was_tried(tmp_path):
    made = OptimizeGraph(**FAST).run(exported(Residual), context(tmp_path))
    (path,) = made.attachments
    assert path == tmp_path / "optimize.json"
    record = from_json(Optimization, path.read_bytes())
    assert [attempt.name for attempt in record.passes] == list(PORTABLE)
    assert record.before.nodes - record.after.nodes == 1
    assert record.before.run_nodes - record.after.run_nodes == 1
    assert record.after.size_bytes == made.path.stat().st_size
    assert record.latency is not None
    assert record.latency.low <= record.latency.ratio <= record.latency.high
    # where the shortcut, the second convolution's input and its output live at once: [1, 16, 16, 16] in float32 each
    assert record.before.peak_activation_bytes == 3 * 4 * 16**3
    assert (record.threads, record.samples) == (1, 4)
    assert record.max_abs_error < 1e-5
    assert made.notes["graph"].startswith("pooling: ")


def test_a_graph_that_nothing_helps_is_handed_over_as_it_came(tmp_path):
    source = exported(linear)
    made = OptimizeGraph(**FAST).run(source, context(tmp_path))
    assert operators(made) == operators(source)
    assert made.notes["graph"].startswith("no pass helps: the graph keeps its 2 nodes")
    record = from_json(Optimization, made.attachments[0].read_bytes())
    assert record.latency is None
    assert record.max_abs_error == 0


def test_a_free_batch_stays_free(tmp_path):
    source = exported(Residual, dynamic_batch=True)
    made = OptimizeGraph(**FAST).run(source, context(tmp_path))
    assert made.dynamic_batch
    images = Images(SPEC, 5).samples
    np.testing.assert_allclose(
        runtimes.load(made, threads=1)(images), runtimes.load(source, threads=1)(images), atol=1e-5
    )
    assert onnx.load(made.path).graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_files_for_onnxruntime_only(tmp_path):
    source = exported(Residual, Precision.INT8)
    made = OptimizeGraph(level="extended", ort_format=True, **FAST).run(source, context(tmp_path))
    assert {"QLinearConv", "QLinearAdd", "QGemm"} <= set(operators(made))
    assert not {"Conv", "Relu"} & set(operators(made))
    record, ort = made.attachments
    assert ort == tmp_path / "optimize.ort"
    np.testing.assert_array_equal(logits(Artifact(Format.ONNX, ort, made.precision, SPEC, False)), logits(source))
    assert from_json(Optimization, record.read_bytes()).ort_bytes == ort.stat().st_size
    assert ort.read_bytes()[4:8] == b"ORTM"


def test_branches_are_left_alone(tmp_path):
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,3,32,32] x) => (float[1,3] y) <int64[1] one = {1}> {
        m = ReduceMean<axes=[2,3], keepdims=1>(x)
        f = Flatten(m)
        s = ReduceSum<keepdims=0>(f)
        zero = Constant<value_float = 0.0>()
        c = Greater(s, zero)
        i = Identity(f)
        y = If(c)<
            then_branch = t () => (float[1,3] p) { p = Relu(i) },
            else_branch = e () => (float[1,3] n) { n = Neg(i) }>
    }"""
    path = tmp_path / "source.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    source = Artifact(Format.ONNX, path, Precision.FP32, SPEC, False)
    made = OptimizeGraph(**FAST).run(source, context(tmp_path))
    assert operators(made)["If"] == 1
    assert operators(made)["Identity"] == 0
    np.testing.assert_allclose(logits(made), logits(source), atol=1e-6)
    record = from_json(Optimization, made.attachments[0].read_bytes())
    assert record.before.operators["Neg"] == 1
    assert record.before.peak_activation_bytes is None
    assert "inside If nodes" in record.before.notes["peak_activation_bytes"]


def test_damaged_files_and_newer_opsets_are_refused_with_nothing_left_behind(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    path = tmp_path / "source.onnx"
    path.write_bytes(b"no model")
    source = Artifact(Format.ONNX, path, Precision.FP32, SPEC, False)
    with pytest.raises(StageError, match="not a readable ONNX file"):
        OptimizeGraph().run(source, context(folder))
    newer = exported(linear, opset=18)
    with pytest.raises(StageError, match=r"uses opset 18, above 13, the newest that NVIDIA Jetson Nano reads"):
        OptimizeGraph().run(newer, context(folder, target="jetson_nano"))
    assert not list(folder.iterdir())


def test_other_runtimes_refuse_files_for_onnxruntime():
    pi, xavier, coral = (load_target(name, []) for name in ("raspberry_pi_4", "jetson_xavier_nx", "coral"))
    for options, fix in (
        ({"level": "extended"}, "stage.o.level=basic"),
        ({"ort_format": True}, "stage.o.ort_format=false"),
    ):
        OptimizeGraph(**options).requires(pi, Precision.INT8, "o")
        with pytest.raises(
            Refusal, match=rf"ONNX Runtime.*but NVIDIA Jetson Xavier NX runs TensorRT 8\.5.* \| fix: {fix}"
        ):
            OptimizeGraph(**options).requires(xavier, Precision.INT8, "o")
    OptimizeGraph().requires(xavier, Precision.INT8, "o")
    with pytest.raises(Refusal, match=r"Coral .*onnx files"):
        OptimizeGraph().requires(coral, Precision.INT8, "o")


@pytest.mark.parametrize("options", [{"passes": ["magic"]}, {"level": "all"}, {"samples": 0}, {"seconds": 0}])
def test_impossible_options_do_not_validate(options):
    with pytest.raises(ValidationError):
        OptimizeGraph(**options)
