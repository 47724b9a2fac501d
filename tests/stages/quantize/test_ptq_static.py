"""The static quantization stage: what it refuses, what it takes from the target, and that it streams."""

from __future__ import annotations

import pytest
import torch
from doubles import Log, noise, stage_context
from pydantic import ValidationError
from torch import fx, nn

from compress.config.schema import load_target
from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.errors import ParityError, Refusal, StageError
from compress.core.target import Int8Scheme, Target
from compress.formats.onnx import importer as onnx_import
from compress.graph.weights import compute_weights
from compress.quantization import ptq
from compress.quantization.ptq import float_graph
from compress.stages.quantize.fp16 import Fp16
from compress.stages.quantize.ptq_static import PtqStatic
from compress.stages.quantize.quantize_scan import QuantizeScan

SPEC = InputSpec((3, 8, 8))


def target(*, int8=True, scheme=True, reduce_range=False):
    source = "made up for a test"
    support = {
        "value": int8,
        "source": source,
        "reason": None if int8 else "sm_53 has no INT8",
        "fix": "precision=fp16",
    }
    number = {"value": 1, "source": source}
    return Target(
        name="board", title="Board", architecture="aarch64", formats={}, peak_flops={},
        compute={"value": "x", "source": source}, runtime={"value": "x", "source": source},
        python={"value": "3", "source": source}, isa_flags={"value": (), "source": source},
        memory_bytes=number, bandwidth_bytes_per_s=number, precisions={"int8": support},
        int8=Int8Scheme(placement="onnxruntime", reduce_range=reduce_range, source=source) if scheme else None,
    )  # fmt: skip


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Hardswish(), nn.Flatten(), nn.Linear(144, 5)).eval()


def run(stage, *, count=20, module=None, board=None, format=Format.TORCH):
    split, log = noise(count, SPEC.shape), Log()
    context = stage_context("ptq_static", target=board or target(), calibration=split, log=log)
    artifact = Artifact(format, module or network(), Precision.FP32, SPEC)
    return stage.run(artifact, context), split, log


def test_the_result_is_an_int8_graph_and_calibration_streams_in_batches():
    result, split, log = run(PtqStatic(batch_size=8))
    assert isinstance(result.module, fx.GraphModule)
    assert (result.precision, result.format, result.history) == (Precision.INT8, Format.TORCH, ("ptq_static",))
    assert split.sizes[-3:] == [8, 8, 4]  # before that the gates read the first images
    assert log.lines == ["ptq_static: left in float: 1 x hardswish"]
    assert log.tracked == [("calibrating on 20 images", 3)]
    x = torch.randn(5, *SPEC.shape)
    reference = network()(x).detach()
    assert (result.module(x) - reference).norm() < 0.1 * reference.norm()
    assert {weight.tensor.dtype for weight in compute_weights(result.module)} == {torch.int8}


def test_two_runs_give_the_same_numbers():
    first, second = (run(PtqStatic())[0].module.state_dict() for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def largest(result):
    return max(int(weight.tensor.abs().max()) for weight in compute_weights(result.module))


def test_placement_and_range_come_from_the_target_unless_given():
    assert largest(run(PtqStatic(), board=target(reduce_range=True))[0]) == 64
    assert largest(run(PtqStatic(reduce_range=False), board=target(reduce_range=True))[0]) == 127
    tensorrt = run(PtqStatic(placement="tensorrt"))[0].module
    assert {node.args[5] for node in tensorrt.graph.nodes if "quantize_per_tensor" in str(node.target)} == {torch.int8}


def test_a_module_fixed_to_a_batch_of_one_is_calibrated_one_by_one():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.conv(x).view(1, 144)

    result, split, log = run(PtqStatic(), module=Fixed().eval(), count=3)
    assert split.sizes[-3:] == [1, 1, 1]
    assert not result.dynamic_batch
    assert "batch fixed to 1" in log.lines[-1]


STAGES = [PtqStatic(), QuantizeScan(), Fp16()]


def networks_input(name, tmp_path):
    """A network that was seen at load to answer differently in batches, or a file fixed to a batch of one."""
    if name == "module":
        return Artifact(Format.TORCH, network(), Precision.FP32, SPEC, dynamic_batch=False), False
    module = network() if name == "file" else Crowd().eval()
    path = tmp_path / "model.onnx"
    torch.onnx.export(module, (torch.zeros(1, *SPEC.shape),), path, dynamo=False, opset_version=17)
    return Artifact(Format.ONNX, path, Precision.FP32, SPEC, dynamic_batch=False), name == "file"


class Crowd(nn.Module):
    """The answer for an image depends on its neighbours, of which a file for one image has none."""

    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x):
        return self.net(x - x.mean(0, keepdim=True) / 2)


@pytest.mark.parametrize("name", ["module", "file", "crowd"])
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: type(stage).__name__)
def test_batches_are_used_where_they_were_seen_to_agree(stage, name, tmp_path):
    artifact, together = networks_input(name, tmp_path)
    if artifact.format not in stage.accepts:
        pytest.skip("takes modules only")
    split = noise(8, SPEC.shape)
    board = load_target("jetson_xavier_nx", [])
    result = stage.run(artifact, stage_context(target=board, calibration=split, folder=tmp_path))
    assert split.sizes[-1] == (8 if together else 1) or isinstance(stage, Fp16)
    assert result.dynamic_batch is together


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: type(stage).__name__)
def test_what_is_made_of_the_model_first_computes_what_it_does(stage, tmp_path, monkeypatch):
    """An import, or a rewrite before anything is rounded, that got something wrong."""
    artifact, _ = networks_input("module" if isinstance(stage, QuantizeScan) else "file", tmp_path)
    right = onnx_import.onnx_to_module

    def wrong(path):
        module = right(path)
        next(module.parameters()).data.mul_(1.5)
        return module

    def rewritten(module, *arguments):
        graph = float_graph(module, *arguments)
        next(graph.parameters()).data.mul_(1.5)
        return graph

    monkeypatch.setattr(onnx_import, "onnx_to_module", wrong)
    monkeypatch.setattr(ptq, "float_graph", rewritten if isinstance(stage, QuantizeScan) else float_graph)
    board = load_target("jetson_xavier_nx", [])
    context = stage_context(target=board, calibration=noise(8, SPEC.shape), folder=tmp_path)
    with pytest.raises(ParityError, match="does not compute what its source does on 8 samples"):
        stage.run(artifact, context)


def test_an_empty_calibration_split_is_an_error():
    with pytest.raises(StageError, match="the calibration split is empty"):
        run(PtqStatic(), count=0)


def test_fewer_images_than_a_batch_are_enough():
    assert run(PtqStatic(batch_size=32), count=3)[1].sizes[-1] == 3


def test_refusals_give_reason_and_fix():
    stage = PtqStatic()
    assert stage.precision_from(Precision.FP32) is Precision.INT8
    with pytest.raises(Refusal, match=r"Board cannot run int8 compute: sm_53 has no INT8.*precision=fp16"):
        stage.requires(target(int8=False), Precision.FP32, "ptq")
    with pytest.raises(Refusal, match=r"stage 'ptq' quantizes fp32 models, but its input is already fp16"):
        stage.requires(target(), Precision.FP16, "ptq")
    with pytest.raises(Refusal, match=r"does not say how its runtime wants INT8.*stage.ptq.placement="):
        stage.requires(target(scheme=False), Precision.FP32, "ptq")
    stage.requires(target(), Precision.FP32, "ptq")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"observer": "histogramm"}, "did you mean 'histogram'"),
        ({"placement": "tensor_rt"}, "did you mean 'tensorrt'"),
        ({"batch_size": 0}, "greater than or equal to 1"),
        ({"bits": 4}, "Extra inputs"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValidationError, match=message):
        PtqStatic(**options)


def test_an_onnx_file_is_a_source(tmp_path):
    pytest.importorskip("compress.formats.onnx.importer")
    x = torch.randn(2, *SPEC.shape)
    module = network()
    torch.onnx.export(module, (x[:1],), tmp_path / "model.onnx", dynamo=False, opset_version=17)
    split = noise(8, SPEC.shape)
    context = stage_context("ptq", target=target(), calibration=split)
    artifact = Artifact(Format.ONNX, tmp_path / "model.onnx", Precision.FP32, SPEC, dynamic_batch=False)
    result = PtqStatic().run(artifact, context)
    assert result.format is Format.TORCH
    reference = module(x).detach()
    assert (result.module(x) - reference).norm() < 0.2 * reference.norm()  # calibrated on eight images only
