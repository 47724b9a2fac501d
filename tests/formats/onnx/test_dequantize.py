"""Stored integers become one DequantizeLinear each, whatever types their scales and zero points have."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from compress.core.artifact import InputSpec
from compress.formats.onnx.capture import capture as onnx_of
from compress.formats.onnx.dequantize import OPERATOR
from compress.formats.onnx.program import program_of

SPEC = InputSpec((3, 4, 4))


class Stored(nn.Module):
    """A convolution by stored integers."""

    def __init__(self, scale_type=torch.float32, zero_points=True, also_read=False):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("weight", torch.randint(-127, 128, (2, 3, 3, 3), dtype=torch.int8, generator=generator))
        self.register_buffer("scale", torch.tensor([0.5, 0.25], dtype=scale_type))
        self.register_buffer("zero_point", torch.tensor([3, -2]) if zero_points else None)
        self.also_read = also_read

    def forward(self, x):
        weight = OPERATOR(self.weight, self.scale, self.zero_point, 0, -128, 127, torch.int8)
        y = nn.functional.conv2d(x, weight)
        return y + self.zero_point.view(2, 1, 1) if self.also_read else y


def graph_of(module):
    """As a captured graph: operators, without torch's own checks of the input."""
    return torch.export.export(module, (torch.zeros(1, *SPEC.shape),), strict=False).module(check_guards=False)


def outputs(model, images):
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    return torch.from_numpy(logits)


def operators(model):
    return Counter(node.op_type for node in model.graph if node.op_type != "Constant")


def test_zero_points_take_the_type_of_the_integers():
    module = Stored()
    program = program_of(graph_of(module), SPEC)
    assert program.state_dict["zero_point"].dtype is torch.int8
    assert program.state_dict["zero_point"].tolist() == [3, -2]
    assert module.zero_point.dtype is torch.int64


def test_zero_points_that_are_read_elsewhere_stay_as_they_are():
    program = program_of(graph_of(Stored(also_read=True)), SPEC)
    assert program.state_dict["zero_point"].dtype is torch.int64


def test_arguments_may_be_named():
    """As people write them; a graph keeps that."""
    graph = graph_of(Stored())
    (node,) = graph.graph.find_nodes(op="call_function", target=OPERATOR)
    node.kwargs = dict(zip(("quant_min", "quant_max", "dtype"), node.args[4:], strict=True))
    node.args = node.args[:4]
    graph.recompile()
    model = onnx_of(graph, SPEC, dynamic_batch=False)
    images = torch.linspace(-1, 1, 48).reshape(1, *SPEC.shape)
    torch.testing.assert_close(outputs(model, images), graph(images), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "casts"),
    [
        (Stored(), 0),
        (Stored(scale_type=torch.float64), 1),
        (Stored(zero_points=False), 0),
        (Stored(also_read=True), None),
    ],
    ids=["float32", "float64", "no-zero-points", "zero-points-read-elsewhere"],
)
def test_the_numbers_are_those_of_pytorch(module, casts):
    images = torch.linspace(-1, 1, 48).reshape(1, *SPEC.shape)
    model = onnx_of(graph_of(module), SPEC, dynamic_batch=False)
    counted = operators(model)
    assert counted["DequantizeLinear"] == 1
    assert casts is None or counted["Cast"] == casts
    restored = (module.weight.float() - (0 if module.zero_point is None else module.zero_point.view(2, 1, 1, 1))) * (
        module.scale.float().view(2, 1, 1, 1)
    )
    expected = nn.functional.conv2d(images, restored)
    expected = expected + module.zero_point.view(2, 1, 1) if module.also_read else expected
    torch.testing.assert_close(outputs(model, images), expected, rtol=1e-6, atol=1e-5)
