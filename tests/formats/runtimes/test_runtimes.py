"""One runner per format: same logits, any batch, threads restored, one-line errors."""

from __future__ import annotations

import importlib
import os

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.errors import StageError
from compress.formats import runtimes
from compress.graph.capture import capture
from compress.support.quiet import quiet

SPEC = InputSpec((3, 4, 4))
IMAGES = np.random.default_rng(0).standard_normal((5, 3, 4, 4)).astype(np.float32)


def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 6)).eval()


def onnx_file(path, batch):
    linear = module()[1]
    weight, bias = (onnx.numpy_helper.from_array(p.detach().numpy(), name) for name, p in linear.named_parameters())
    nodes = [
        onnx.helper.make_node("Flatten", ["x"], ["f"]),
        onnx.helper.make_node("Gemm", ["f", "weight", "bias"], ["y"], transB=1),
    ]
    make = onnx.helper.make_tensor_value_info
    x, y = make("x", 1, [batch, 3, 4, 4]), make("y", 1, [batch, 6])
    graph = onnx.helper.make_graph(nodes, "g", [x], [y], [weight, bias])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8), path)
    return Artifact(Format.ONNX, path, Precision.FP32, SPEC, dynamic_batch=batch != 1)


def torchscript_file(path, dynamic):
    with quiet():
        torch.jit.save(torch.jit.trace(module(), torch.zeros(1, 3, 4, 4)), str(path))
    return Artifact(Format.TORCHSCRIPT, path, Precision.FP32, SPEC, dynamic_batch=dynamic)


@pytest.fixture(params=["torch", "onnx free", "onnx one", "torchscript free", "torchscript one"])
def artifact(request, tmp_path):
    if request.param == "torch":
        return Artifact(Format.TORCH, module(), Precision.FP32, SPEC)
    kind, batch = request.param.split()
    if kind == "onnx":
        return onnx_file(tmp_path / "m.onnx", "batch" if batch == "free" else 1)
    return torchscript_file(tmp_path / "m.ts.pt", batch == "free")


@pytest.mark.parametrize("count", [1, 5])
def test_every_runtime_gives_the_modules_logits(artifact, count):
    runner = runtimes.load(artifact, threads=1)
    logits = runner(IMAGES[:count])
    assert (logits.shape, logits.dtype) == ((count, 6), np.float32)
    with torch.no_grad():
        np.testing.assert_allclose(logits, module()(torch.from_numpy(IMAGES[:count])).numpy(), atol=1e-5)
    assert runner.name.split()[0] in {"torch", "onnxruntime", "torchscript"}
    assert runner.name.split()[1][0].isdigit()


def test_every_format_has_a_runtime():
    for each in Format:
        assert callable(importlib.import_module(f"compress.formats.{each.value}.runtime").load)


@pytest.mark.parametrize("artifact", ["torch", "torchscript free"], indirect=True)
def test_thread_count_is_restored(artifact):
    before = torch.get_num_threads()
    runtimes.load(artifact, threads=before + 1)(IMAGES)
    assert torch.get_num_threads() == before


def test_telemetry_is_off():
    importlib.import_module("compress.formats.onnx.runtime")
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


@pytest.mark.parametrize(
    ("format", "message"),
    [(Format.ONNX, "ONNX Runtime cannot load"), (Format.TORCHSCRIPT, "PyTorch cannot load")],
)
def test_broken_file_is_one_line(format, message, tmp_path):
    path = tmp_path / "broken"
    path.write_bytes(b"not a model" * 20)
    with pytest.raises(StageError, match=f"^{message} .*broken: [^\n]+$"):
        runtimes.load(Artifact(format, path, Precision.FP32, SPEC), threads=1)


def test_a_module_that_takes_one_image_runs_them_one_by_one():
    class OneImage(nn.Module):
        def forward(self, x):
            return x.reshape(1, 48)

    runner = runtimes.load(Artifact(Format.TORCH, OneImage(), Precision.FP32, SPEC, dynamic_batch=False), threads=1)
    np.testing.assert_array_equal(runner(IMAGES), IMAGES.reshape(5, 48))


def test_a_graph_captured_for_one_image_runs_them_one_by_one():
    class Length(nn.Module):
        """Takes any batch; `len` makes the exporter note the number it saw."""

        def forward(self, x):
            return x.view(len(x), 48)

    graph = capture(Length(), SPEC)
    runner = runtimes.load(Artifact(Format.TORCH, graph, Precision.FP32, SPEC), threads=1)
    np.testing.assert_array_equal(runner(IMAGES), IMAGES.reshape(5, 48))


class Merging(nn.Module):
    """Merges channels with pixels by `view`, which only takes neighbours; notes the layout it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 5, 3)
        self.layouts: list[bool] = []

    def forward(self, x):
        self.layouts.append(x.is_contiguous(memory_format=torch.channels_last))
        return self.layer(x).view(len(x), -1)


def test_answers_are_computed_in_the_layout_that_takes_least_time_and_timings_are_not():
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 5, 3)
    seen = []
    layer.register_forward_pre_hook(
        lambda _, images: seen.append(images[0].is_contiguous(memory_format=torch.channels_last))
    )
    artifact = Artifact(Format.TORCH, nn.Sequential(layer, nn.Flatten()).eval(), Precision.FP32, SPEC)
    answers = runtimes.load_for_answers(artifact)(IMAGES)
    timed = runtimes.load(artifact, threads=1)(IMAGES)
    assert seen == [True, False]
    np.testing.assert_allclose(answers, timed, atol=1e-6)


def test_a_module_that_does_not_take_another_layout_is_run_as_it_is():
    torch.manual_seed(0)
    module = Merging().eval()
    artifact = Artifact(Format.TORCH, module, Precision.FP32, SPEC)
    run = runtimes.load_for_answers(artifact)
    np.testing.assert_array_equal(run(IMAGES), runtimes.load(artifact, threads=runtimes.usable_cores())(IMAGES))
    run(IMAGES)
    assert module.layouts == [True, False, False, False]
