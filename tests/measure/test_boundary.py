"""The whole measurement of one artifact, for each format."""

from __future__ import annotations

import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from doubles import Log, noise
from torch import nn

from compress.core.artifact import BATCH_BYTES, Artifact, Format, InputSpec, Precision
from compress.core.measurement import Caveat, CaveatKind
from compress.formats.registry import open_file, support_of
from compress.measure import boundary
from compress.measure.boundary import MeasureConfig, RecordedLogits, measure
from compress.measure.host import describe_host
from compress.measure.unmeasured import NotMeasured

SPEC = InputSpec((1, 8, 8), "gray", (0.5,), (0.5,))
CONFIG = MeasureConfig(batch_size=8, latency_runs=5, latency_warmup=1, latency_seconds=0.5)


SPLITS = SimpleNamespace(evaluation=noise(20, SPEC.shape, name="evaluation"))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()


def run(artifact, stage, reference):
    return measure(artifact, stage=stage, reference=reference, splits=SPLITS, config=CONFIG, progress=Log())


@pytest.fixture(scope="module")
def source():
    return Artifact(Format.TORCH, network(), Precision.FP32, SPEC)


@pytest.fixture(scope="module")
def reference(source, tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "reference.npy"
    return RecordedLogits.compute(source, SPLITS.evaluation, path, CONFIG, Log())


def test_the_source(source, reference):
    row = run(source, "source", reference)
    assert (row.stage, row.feed, row.format, row.precision) == ("source", None, Format.TORCH, Precision.FP32)
    assert (row.parameters, row.macs, row.sparsity.total) == (40 + 435, 36 * 36 + 432, 36 + 432)
    assert row.size_bytes > 4 * 475
    assert (row.latency.batch, row.latency.threads, row.latency.runs) == (1, 1, 5)
    assert row.latency.device == describe_host().label
    assert row.accuracy.samples == 20
    assert row.fidelity.agreement == 1.0
    assert (row.notes, row.caveats) == ({}, {})


def test_an_onnx_file_in_its_own_runtime(source, reference, tmp_path):
    path = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            source.module,
            (torch.zeros(2, 1, 8, 8),),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["input"],
            verbose=False,
            external_data=False,
        ).save(path)
    artifact = source.after("fold", source.module).after("to_onnx", path, format=Format.ONNX)
    row = run(artifact, "to_onnx", reference)
    assert row.runtime.startswith("onnxruntime")
    assert (row.feed, row.size_bytes, row.macs) == ("fold", path.stat().st_size, 36 * 36 + 432)
    assert row.fidelity.agreement == 1.0
    assert row.fidelity.sqnr_db > 100
    onnx.checker.check_model(path)


def test_a_torchscript_file_in_its_own_runtime(source, reference, tmp_path):
    path = tmp_path / "model.torchscript"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.freeze(torch.jit.trace(source.module, torch.zeros(1, 1, 8, 8))).save(str(path))
    row = run(source.after("to_torchscript", path, format=Format.TORCHSCRIPT), "to_torchscript", reference)
    assert (row.feed, row.size_bytes, row.macs) == ("source", path.stat().st_size, 36 * 36 + 432)
    assert (row.parameters, row.sparsity.total) == (475, 468)
    assert row.fidelity.agreement == 1.0


def test_quick_runs_no_module_between_source_and_file(source, reference):
    quick = CONFIG.model_copy(update={"scope": "quick"})
    options = {"reference": reference, "splits": SPLITS, "config": quick, "progress": Log()}
    first = measure(source, stage="source", **options)
    assert first.latency is not None
    assert first.accuracy.samples == 20
    row = measure(source.after("magnitude", source.module), stage="magnitude", **options)
    assert (row.latency, row.accuracy, row.fidelity) == (None, None, None)
    assert row.notes["latency"].startswith("measure=quick")
    assert row.notes["accuracy"].startswith("measure=quick")
    assert row.caveats["latency"] == Caveat(CaveatKind.MISSING, row.notes["latency"])
    assert (row.parameters, row.sparsity.total) == (475, 468)


def test_the_time_of_a_quantized_module_is_emulated(source, reference):
    row = run(source.after("ptq", source.module, precision=Precision.INT8), "ptq", reference)
    assert row.latency is not None
    assert row.caveats["latency"].kind is CaveatKind.EMULATED
    assert row.notes["latency"] == f"emulated: {row.caveats['latency'].why}"


def test_gaps_say_why(reference):
    plain = nn.Sequential(nn.Flatten(), nn.Softmax(dim=1)).eval()
    row = run(Artifact(Format.TORCH, plain, Precision.FP32, SPEC), "source", None)
    assert row.sparsity is None
    assert row.notes["sparsity"] == "found no convolution or linear layer with stored weights"
    assert row.fidelity is None
    assert row.notes["fidelity"] == "no reference outputs were given"
    assert (row.parameters, row.macs) == (0, 0)


@pytest.mark.parametrize(
    ("format", "precision", "architecture", "word"),
    [
        (Format.TORCH, Precision.INT8, "aarch64", "Q/DQ around float32"),
        (Format.TORCH, Precision.FP16, "x86_64", "PyTorch's FP16 kernels"),
        (Format.ONNX, Precision.FP16, "x86_64", "float32 with casts"),
        (Format.ONNX, Precision.FP16, "aarch64", None),
        (Format.ONNX, Precision.INT8, "x86_64", None),
        (Format.TORCH, Precision.FP32, "x86_64", None),
        (Format.TORCHSCRIPT, Precision.INT8, "x86_64", "Q/DQ around float32"),
        (Format.TFLITE, Precision.FP16, "x86_64", "LiteRT computes in float32"),
        (Format.TFLITE, Precision.INT8, "x86_64", None),
        (Format.EDGETPU, Precision.INT8, "x86_64", None),
        (Format.TENSORRT, Precision.FP16, "aarch64", None),
    ],
)
def test_times_of_emulated_arithmetic_are_labelled(format, precision, architecture, word):
    reason = support_of(format).emulation(precision, architecture)
    assert reason is None if word is None else word in reason


def test_int8_accuracy_on_a_cpu_that_saturates_is_not_trusted(tmp_path):
    from onnx import TensorProto, helper, numpy_helper

    def artifact(largest):
        weight = numpy_helper.from_array(np.array([[largest, 1]], np.int8), "w_q")
        scale, zero = numpy_helper.from_array(np.float32(1), "s"), numpy_helper.from_array(np.int8(0), "z")
        nodes = [
            helper.make_node("DequantizeLinear", ["w_q", "s", "z"], ["w"]),
            helper.make_node("Gemm", ["x", "w"], ["y"], transB=1),
        ]
        image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])
        logits = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])
        path = tmp_path / f"{largest}.onnx"
        onnx.save(helper.make_model(helper.make_graph(nodes, "g", [image], [logits], [weight, scale, zero])), path)
        return Artifact(Format.ONNX, path, Precision.INT8, SPEC)

    old = replace(describe_host(), cpu="Old CPU", architecture="x86_64", isa=("avx2",))
    assert (
        "not to be trusted: 8-bit products may saturate on this CPU (Old CPU, avx2)"
        in boundary._caveats(artifact(127), old)["accuracy"].sentence
    )
    assert boundary._caveats(artifact(63), old) == {}
    assert boundary._caveats(artifact(127), replace(old, isa=("avx512_vnni",))) == {}


@pytest.mark.parametrize(
    ("name", "beside", "deferred"),
    [
        ("to_edgetpu.tflite", "to_edgetpu_compile.sh", True),
        ("to_edgetpu_edgetpu.tflite", "to_edgetpu.tflite", False),
        ("to_edgetpu_segment_0_of_2_edgetpu.tflite", "to_edgetpu_segment_1_of_2_edgetpu.tflite", True),
    ],
)
def test_of_files_for_the_edge_tpu_only_a_compiled_and_whole_one_is_measured(tmp_path, name, beside, deferred):
    artifact = Artifact(Format.EDGETPU, tmp_path / name, Precision.INT8, SPEC, attachments=(tmp_path / beside,))
    assert artifact.deferred is deferred
    if deferred:
        row = measure(artifact, stage="to_edgetpu", reference=None, splits=None, config=MeasureConfig(), progress=Log())
        assert (row.runtime, row.latency, row.size_bytes) == ("edgetpu, on the device", None, None)
        assert "only what the Edge TPU compiler makes of it runs" in row.notes["latency"]


def test_a_compiled_file_that_runs_here_is_not_read_as_another_format(tmp_path):
    """Where an Edge TPU is plugged in."""
    path = tmp_path / "net_edgetpu.tflite"
    path.write_bytes(b"compiled")
    file = open_file(Artifact(Format.EDGETPU, path, Precision.INT8, SPEC))
    assert file.size().size_bytes == 8
    with pytest.raises(NotMeasured, match="see the TFLite file it was made of"):
        file.macs()


def test_a_large_network_is_evaluated_on_few_images_at_a_time(source, tmp_path):
    evaluation = noise(20, SPEC.shape, name="evaluation")
    large = replace(source, activation_bytes=BATCH_BYTES // 3)
    recorded = RecordedLogits.compute(large, evaluation, tmp_path / "logits.npy", CONFIG, Log())
    splits = SimpleNamespace(evaluation=evaluation)
    measure(large, stage="source", reference=recorded, splits=splits, config=CONFIG, progress=Log())
    assert max(evaluation.sizes) == 3
