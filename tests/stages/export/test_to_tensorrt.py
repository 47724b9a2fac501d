"""What to_tensorrt does where there is no GPU: a plan for the device; and what it refuses anywhere."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from compress.config.schema import load_target
from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.errors import MissingExtra, Refusal, StageError
from compress.formats.parity import Tolerance
from compress.formats.runtimes import load
from compress.formats.tensorrt.race import Candidate, Raced, describe, fastest
from compress.formats.tensorrt.runtime import unavailable
from compress.measure.boundary import MeasureConfig, measure
from compress.stages.export.to_onnx import ToOnnx
from compress.stages.export.to_tensorrt import ToTensorRT
from compress.stages.quantize.ptq_static import PtqStatic
from compress.support.files import sha256_file

SPEC = InputSpec((3, 16, 16))
XAVIER, NANO = (load_target(name, []) for name in ("jetson_xavier_nx", "jetson_nano"))


def network():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    return Artifact(Format.TORCH, nn.Sequential(*layers).eval(), Precision.FP32, SPEC)


@pytest.fixture
def no_gpu():
    if unavailable() is None:
        pytest.skip("TensorRT and a GPU are here: engines are built")


class Silent:
    def track(self, items, description, total=None):
        yield from items

    def log(self, message):
        pass


@pytest.fixture
def context(make_context):
    return lambda name: replace(make_context(SPEC.shape, name=name), target=XAVIER, progress=Silent())


@pytest.fixture
def int8(context):
    graph = PtqStatic().run(network(), context("ptq_static"))
    return ToOnnx(dynamic_batch=True).run(graph, context("to_onnx"))


def test_without_a_gpu_the_device_gets_a_plan_and_nobody_an_engine(no_gpu, int8, context):
    made = ToTensorRT(batch=(1, 4, 8), dla_core=0).run(int8, context("to_tensorrt"))
    assert (made.format, made.precision, made.deferred) == (Format.TENSORRT, Precision.INT8, True)
    assert not list(made.path.parent.glob("*.engine"))
    plan = json.loads(made.path.read_text())
    assert plan["onnx"] == "to_onnx.onnx"
    assert plan["sha256"] == sha256_file(int8.path)
    assert (plan["batch"], plan["dla_core"], plan["workspace_mib"]) == ([1, 4, 8], 0, 1024)
    assert "TensorRT 8.5.2" in plan["expects"]
    assert "sm_72" in plan["expects"]
    assert "build_engine.py in the bundle builds to_onnx.onnx on the device" in made.notes["engine"]


def test_a_plan_for_the_source_itself_names_it_as_it_is_delivered(no_gpu, int8, context):
    made = ToTensorRT().run(replace(int8, history=()), context("to_tensorrt"))
    assert json.loads(made.path.read_text())["onnx"] == replace(int8, history=()).delivered_name == "source.onnx"


def test_a_plan_is_not_measured_and_says_why(no_gpu, int8, context):
    made = ToTensorRT().run(int8, context("to_tensorrt"))
    row = measure(made, stage="to_tensorrt", reference=None, splits=None, config=MeasureConfig(), progress=None)
    assert (row.size_bytes, row.latency, row.accuracy) == (None, None, None)
    assert row.notes["latency"] == "nothing to measure here: it is made on the device"


def test_the_calibration_cache_lies_beside_the_plan(no_gpu, int8, context):
    made = ToTensorRT().run(int8, context("to_tensorrt"))
    text = (made.path.parent / "to_tensorrt.calibration.cache").read_text()
    assert text.startswith("TRT-8502-EntropyCalibration2\ninput: ")


def test_without_a_version_in_the_profile_there_is_no_calibration_cache_and_a_note_says_so(no_gpu, int8, context):
    unknown = XAVIER.model_copy(update={"tensorrt_version": None})
    made = ToTensorRT().run(int8, replace(context("to_tensorrt"), target=unknown))
    assert made.attachments == ()
    assert "states no tensorrt_version" in made.notes["calibration cache"]
    assert "engine" in made.notes


def test_a_float_file_gets_no_calibration_cache(no_gpu, context):
    onnx = ToOnnx().run(network(), context("to_onnx"))
    made = ToTensorRT().run(onnx, context("to_tensorrt"))
    assert not list(made.path.parent.glob("*.cache"))


def test_a_fixed_batch_cannot_be_stretched(context):
    onnx = ToOnnx().run(network(), context("to_onnx"))
    with pytest.raises(StageError, match=r"batch=\[1, 8, 8\], but to_onnx.onnx takes batch 1 only"):
        ToTensorRT(batch=(1, 8, 8)).run(onnx, context("to_tensorrt"))


def test_batches_are_in_order():
    with pytest.raises(ValidationError, match="smallest, usual, largest"):
        ToTensorRT(batch=(8, 1, 1))


def test_a_board_without_tensorrt_dla_or_int8_refuses():
    with pytest.raises(Refusal, match="is not known to run tensorrt files"):
        ToTensorRT().requires(load_target("raspberry_pi_4", []), Precision.FP32, "to_tensorrt")
    with pytest.raises(Refusal, match="Jetson Nano has no DLA"):
        ToTensorRT(dla_core=0).requires(NANO, Precision.FP16, "to_tensorrt")
    with pytest.raises(Refusal, match=r"sm_53 and INT8 compute needs compute capability 6\.1"):
        ToTensorRT().requires(NANO, Precision.INT8, "to_tensorrt")
    one = XAVIER.model_copy(update={"dla_cores": 1})
    with pytest.raises(Refusal, match=r"has 1 DLA core\(s\), counted from 0"):
        ToTensorRT(dla_core=1).requires(one, Precision.INT8, "to_tensorrt")
    ToTensorRT(dla_core=1).requires(XAVIER, Precision.INT8, "to_tensorrt")


def test_loading_an_engine_without_tensorrt_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    (tmp_path / "net.engine").write_bytes(b"no engine")
    engine = Artifact(Format.TENSORRT, tmp_path / "net.engine", Precision.FP16, SPEC)
    with pytest.raises(MissingExtra, match=r"edge-compress\[tensorrt\]"):
        load(engine, threads=1)


def raced(precision, ms, problem=None):
    candidate = Candidate(precision, Path(f"{precision}.engine"), Tolerance())
    return Raced(candidate, ms, 0.01, problem, (("conv1 + relu", 0.04), ("reformat 2", 0.02)))


def test_the_faster_engine_wins_and_int8_losing_is_said_with_the_layers():
    found = [raced(Precision.INT8, 0.47), raced(Precision.FP16, 0.3)]
    chosen = fastest(found)
    assert chosen.candidate.precision is Precision.FP16
    text = describe(found, chosen)
    assert text.startswith("fp16 is recommended: fp16 0.300 ms (+ 0.010 ms copying), int8 0.470 ms")
    assert text.endswith("INT8 is slower here, most of it in conv1 + relu 0.040 ms, reformat 2 0.020 ms")


def test_a_wrong_engine_cannot_win():
    found = [raced(Precision.INT8, 0.1, "signal-to-noise ratio is 3.0 dB"), raced(Precision.FP16, 0.3)]
    assert fastest(found).candidate.precision is Precision.FP16
    with pytest.raises(StageError, match=r"no engine computes what its ONNX file does: int8: signal"):
        fastest(found[:1])
