"""Layers that are called what Python reserves go the whole way: captured, quantized, stored, read back, exported."""

from __future__ import annotations

from types import SimpleNamespace

import onnx
import pytest
import torch
from doubles import noise, stage_context
from onnx import helper, numpy_helper
from torch import nn

from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.formats.onnx.importer import onnx_to_module
from compress.graph.capture import capture, layer_name
from compress.models.persist import load_module, save_module
from compress.stages.export.to_onnx import ToOnnx
from compress.stages.prepare.fold_batchnorm import FoldBatchnorm
from compress.stages.prune.magnitude import Magnitude
from compress.stages.quantize.fp16 import Fp16
from compress.stages.quantize.ptq_static import PtqStatic

SPEC = InputSpec((3, 8, 8))
NAMES = ["class", "import", "lambda", "None", "in"]


class Named(nn.Module):
    def __init__(self, name):
        super().__init__()
        torch.manual_seed(0)
        self.parts = nn.ModuleDict({name: nn.Conv2d(3, 4, 3), "norm": nn.BatchNorm2d(4)})
        self.add_module(name, nn.Linear(4, 5))
        self.name = name

    def forward(self, x):
        x = self.parts["norm"](self.parts[self.name](x)).relu()
        return self.get_submodule(self.name)(x.mean((2, 3)))


@pytest.mark.parametrize("name", NAMES)
def test_it_is_captured_and_comes_back_from_the_store(name, tmp_path):
    module, x = Named(name).eval(), torch.randn(2, *SPEC.shape)
    graph = capture(module, SPEC)
    torch.testing.assert_close(graph(x), module(x))
    assert f"parts.{name}" in {layer_name(node) for node in graph.graph.nodes}
    path = tmp_path / save_module(graph, SPEC, tmp_path, source=None)
    torch.testing.assert_close(load_module(path, source=None)(x), module(x))


@pytest.mark.parametrize("quantize", [PtqStatic(), Fp16()], ids=["int8", "fp16"])
def test_it_goes_through_a_recipe(quantize, tmp_path):
    splits = SimpleNamespace(calibration=noise(8, SPEC.shape))
    made = Artifact(Format.TORCH, Named("class").eval(), Precision.FP32, SPEC)
    for stage in (FoldBatchnorm(), Magnitude(amount=0.2), quantize, ToOnnx()):
        made = stage.run(made, stage_context(target="jetson_xavier_nx", splits=splits, folder=tmp_path))
    assert onnx.load(made.path).graph.node


def test_a_node_of_a_file_may_be_called_so(tmp_path):
    weight = numpy_helper.from_array(torch.ones(5, 3, 8, 8).numpy(), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="class"),
        helper.make_node("Flatten", ["c"], ["y"], name="lambda"),
    ]
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, *SPEC.shape])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 5])
    graph = helper.make_graph(nodes, "net", [x], [y], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "net.onnx")
    image = torch.randn(1, *SPEC.shape)
    torch.testing.assert_close(onnx_to_module(tmp_path / "net.onnx")(image)[0, 0], image.sum())
