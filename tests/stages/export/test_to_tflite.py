"""TFLite export: our scales in the file, integers throughout, the target's interface, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from doubles import ArraySplit, stage_context
from torch import nn

from compress.config.schema import load_target
from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.errors import MissingExtra, Refusal, StageError
from compress.formats import runtimes
from compress.stages.export.to_edgetpu import ToEdgetpu
from compress.stages.export.to_onnx import ToOnnx
from compress.stages.export.to_tflite import ToTflite, _runtime_version
from compress.stages.quantize.ptq_static import PtqStatic

pytest.importorskip("litert_torch", reason="needs the extra tflite")

from compress.formats.tflite.interface import METADATA_NAME
from compress.formats.tflite.network import read_network

SPEC = InputSpec((3, 16, 16))


class Net(nn.Module):
    """What leaks elsewhere: a residual ADD, padding, pooling, hardswish, a gate, a normalisation that stays."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.swish, self.gate = nn.Hardswish(), nn.Hardsigmoid()
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.norm(self.pool(self.stem(x)))
        x = x + self.swish(self.depthwise(x))
        x = x * self.gate(x.mean((2, 3), keepdim=True))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    """Contexts with sixteen random images, for a target by name."""

    split = ArraySplit(np.random.default_rng(0).standard_normal((16, *SPEC.shape)).astype(np.float32))

    class Splits:
        classes = ("a", "b", "c", "d", "é")
        calibration = finetune = validation = evaluation = split

    class Kit:
        images = split.images

        @staticmethod
        def context(target="coral", name="export"):
            return stage_context(name, target=target, splits=Splits(), folder=tmp_path_factory.mktemp("stage"))

        @staticmethod
        def source(module=None):
            torch.manual_seed(0)
            module = (module or Net()).eval()
            for part in module.modules():
                if isinstance(part, nn.BatchNorm2d):
                    part.running_mean.normal_(0, 0.2)
                    part.running_var.uniform_(0.5, 1.5)
            return Artifact(Format.TORCH, module, Precision.FP32, SPEC, history=("source",))

    return Kit


@pytest.fixture(scope="module")
def quantized(kit):
    return PtqStatic().run(kit.source(), kit.context(name="ptq"))


@pytest.fixture(scope="module")
def exported(kit, quantized):
    return ToTflite().run(quantized, kit.context())


def scales_of(graph):
    """Scales of all per-tensor quantizations of a torch graph."""
    nodes = (node for node in graph.graph.nodes if "quantize_per_tensor" in str(node.target))
    return {np.float32(node.args[1]) for node in nodes if isinstance(node.args[1], float)}


def test_the_file_computes_in_integers_what_the_graph_does(kit, quantized, exported):
    network = read_network(exported.path)
    assert not any(tensor.is_float for tensor in network.tensors)
    assert {operator.kind for operator in network.operators} <= {
        *("QUANTIZE", "PAD", "CONV_2D", "DEPTHWISE_CONV_2D", "MAX_POOL_2D", "ADD", "MUL", "AVERAGE_POOL_2D"),
        *("FULLY_CONNECTED", "RESHAPE"),
    }
    versions = load_target("coral", []).tflite.versions
    assert all(operator.version <= versions.get(operator.kind, 99) for operator in network.operators)
    step = network.outputs[0].quantization.scale[0]
    given, wanted = (runtimes.load(artifact, threads=1)(kit.images) for artifact in (exported, quantized))
    assert np.abs(given - wanted).max() <= 2.01 * step
    assert np.abs(given - wanted).mean() <= 0.3 * step


def test_every_scale_is_the_quantizers_own(quantized, exported):
    stored = {np.float32(t.quantization.scale[0]) for t in read_network(exported.path).tensors if t.quantization}
    missing = [scale for scale in scales_of(quantized.module) if not np.isclose(list(stored), scale, rtol=1e-6).any()]
    assert missing == []
    weight = dict(quantized.module.named_buffers())
    (dense,) = [op for op in read_network(exported.path).operators if op.kind == "FULLY_CONNECTED"]
    np.testing.assert_array_equal(dense.inputs[1].constant, weight["head.weight"].numpy())
    assert len(dense.inputs[1].quantization.scale) == 1


def test_the_interface_is_the_targets(exported):
    network = read_network(exported.path)
    given, taken = network.inputs[0], network.outputs[0]
    assert (given.name, given.dtype, given.shape) == ("input", "uint8", (1, 16, 16, 3))
    assert (taken.name, taken.dtype, taken.shape) == ("logits", "uint8", (1, 5))
    metadata = json.loads(network.metadata[METADATA_NAME])
    assert (metadata["layout"], metadata["precision"]) == ("NHWC", "int8")
    assert metadata["labels"] == ["a", "b", "c", "d", "é"]
    assert json.loads(metadata["mean"]) == list(SPEC.mean)
    assert (exported.format, exported.precision, exported.dynamic_batch) == (Format.TFLITE, Precision.INT8, False)


def test_it_maps_onto_an_edge_tpu_and_is_handed_over_with_a_script(kit, exported, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("EDGETPU_COMPILER", raising=False)
    context = kit.context(name="to_edgetpu")
    result = ToEdgetpu(min_mapped=1.0).run(exported, context)
    assert (result.format, result.deferred) == (Format.EDGETPU, True)  # it does not pass for the compiled one
    assert result.path.read_bytes() == exported.path.read_bytes()
    (script,) = result.attachments
    assert "-m 14" in script.read_text()
    assert context.progress.lines[0].startswith("to_edgetpu: predicted: ")
    assert result.notes["edge tpu"].startswith("not compiled (no edgetpu_compiler on the PATH)")


def test_an_onnx_file_gives_the_same_integers(kit, quantized, exported):
    onnx = ToOnnx().run(quantized, kit.context("raspberry_pi_4", "onnx"))
    again = ToTflite(io="uint8").run(onnx, kit.context())
    given, wanted = (runtimes.load(artifact, threads=1)(kit.images) for artifact in (again, exported))
    np.testing.assert_allclose(given, wanted, atol=read_network(exported.path).outputs[0].quantization.scale[0] * 1.01)


class Small(nn.Sequential):
    def __init__(self, *more):
        super().__init__(nn.Conv2d(3, 64, 3), *more, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5))


@pytest.mark.parametrize(
    ("weights", "precision"),
    [("float16", Precision.FP32), pytest.param("int8", Precision.INT8, marks=pytest.mark.slow)],
)
def test_a_float_model_with_smaller_weights(kit, weights, precision):
    source = kit.source(Small())
    result = ToTflite(weights=weights).run(source, kit.context("raspberry_pi_4"))
    assert result.precision is precision
    assert result.notes["weights"].startswith(f"stored as {weights}")
    given, wanted = (runtimes.load(artifact, threads=1)(kit.images) for artifact in (result, source))
    assert np.abs(given - wanted).max() <= 0.05 * np.abs(wanted).max()
    filters = next(t for t in read_network(result.path).tensors if t.shape == (64, 3, 3, 3) and t.constant is not None)
    assert filters.dtype == weights


def test_an_operator_that_litert_lacks_is_named_with_its_layer(kit):
    class Odd(nn.Module):
        def forward(self, x):
            return torch.special.i1e(x)

    source = kit.source(Small(Odd()))
    with pytest.raises(
        StageError, match=r"LiteRT has no form for 'special_i1e' in layer '1' \(Odd\) \| fix: layer '1'"
    ) as error:
        ToTflite().run(source, kit.context("raspberry_pi_4"))
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def leaking(kit):
    """A graph with float operators in it, as another runtime's placement leaves them."""
    return PtqStatic(placement="onnxruntime").run(kit.source(Small(nn.Tanh())), kit.context(name="ptq"))


def test_what_leaks_is_refused_where_it_cannot_run(kit, leaking):
    with pytest.raises(
        StageError, match=r"needs a full-integer file, and this one has \d+ violations: operator"
    ) as error:
        ToTflite().run(leaking, kit.context())
    assert "float32" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_what_leaks_is_told_elsewhere(kit, leaking):
    context = kit.context("raspberry_pi_4")
    ToTflite().run(leaking, context)
    assert context.progress.lines[0].startswith("export: not full-integer: operator ")


@pytest.mark.parametrize(
    ("stage", "target", "precision", "message"),
    [
        (
            ToTflite(),
            "coral",
            Precision.FP32,
            r"full-integer files only .*, but the model is fp32 \| fix: precision=int8",
        ),
        (ToTflite(weights="int8"), "coral", Precision.FP32, "full-integer files only"),
        (
            ToTflite(io="float32"),
            "coral",
            Precision.INT8,
            r"takes no float input or output .* fix: stage.name.io=uint8",
        ),
        (ToTflite(weights="float16"), "raspberry_pi_4", Precision.INT8, "is for float models, but the input is int8"),
        (ToTflite(), "raspberry_pi_4", Precision.FP16, r"fix: precision=fp32 stage\.name\.weights=float16"),
        (ToTflite(), "jetson_nano", Precision.FP32, "is not known to run tflite files"),
        (ToEdgetpu(), "coral", Precision.FP32, "takes quantized models only, but the input is fp32"),
        (ToEdgetpu(), "raspberry_pi_4", Precision.INT8, "is not known to run edgetpu files"),
    ],
)
def test_refusals_come_before_any_work(stage, target, precision, message):
    with pytest.raises(Refusal, match=message):
        stage.requires(load_target(target, []), precision, "name")


def test_precision_is_that_of_the_arithmetic():
    assert ToTflite().precision_from(Precision.INT8) is Precision.INT8
    assert ToTflite(weights="int8").precision_from(Precision.FP32) is Precision.INT8
    assert ToTflite(weights="float16").precision_from(Precision.FP32) is Precision.FP32


def test_without_the_converter_the_fix_is_named(kit, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "litert_torch", None)
    with pytest.raises(
        MissingExtra, match=r"needs the package 'litert-torch' \| fix: pip install 'edge-compress\[tflite\]'"
    ):
        ToTflite().run(kit.source(Small()), kit.context("raspberry_pi_4"))
    with pytest.raises(MissingExtra, match="stage 'to_tflite'"):  # and it is known before any work
        ToTflite().requires(load_target("coral", []), Precision.INT8, "to_tflite")


def test_weights_are_read_by_their_strides(kit):
    """A transposed view, and `channels_last`: the converter takes a constant's memory as if it lay row by row."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 5)).eval()
    module[0].weight = nn.Parameter(torch.randn(3, 3, 3, 4).permute(3, 0, 1, 2))
    given = Artifact(Format.TORCH, module.to(memory_format=torch.channels_last), Precision.FP32, SPEC)
    assert not module[0].weight.is_contiguous()
    context = kit.context("raspberry_pi_4")
    file = ToTflite().run(given, context)
    x = np.random.default_rng(0).standard_normal((2, *SPEC.shape), dtype=np.float32)
    np.testing.assert_allclose(
        runtimes.load(file, threads=1)(x), runtimes.load(given, threads=1)(x), rtol=1e-4, atol=1e-5
    )


def test_the_runtime_that_the_bundle_installs_bounds_the_operators():
    assert _runtime_version(load_target("coral", [])) == "2.11.0"
    assert _runtime_version(load_target("raspberry_pi_4", [])) is None
