"""From PyTorch's operators to ONNX's."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
import pytest
import torch
from torch import nn

from compress.graph import capture as captured
from compress.onnxfile import capture as capturing
from compress.onnxfile.capture import capture
from compress.types import InputSpec

SPEC = InputSpec((3, 8, 8))


class Network(nn.Module):
    """A convolution, `activation` and a classifier."""

    def __init__(self, activation):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.activation, self.classifier = nn.Conv2d(3, 4, 3), activation, nn.Linear(4, 2)

    def forward(self, x):
        return self.classifier(self.activation(self.conv(x)).mean((2, 3)))


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def outputs(model: ir.Model, images: np.ndarray) -> np.ndarray:
    proto = ir.serde.serialize_model(model)
    onnx.checker.check_model(proto)
    return onnx.reference.ReferenceEvaluator(proto).run(None, {"input": images})[0]


@pytest.mark.parametrize("dynamic_batch", [False, True])
def test_a_captured_graph_is_not_decomposed_and_translates_alike(monkeypatch, dynamic_batch):
    graph = captured(Network(nn.Hardswish()).eval(), SPEC)
    decomposed = []
    decompose = torch.export.ExportedProgram.run_decompositions
    monkeypatch.setattr(
        torch.export.ExportedProgram,
        "run_decompositions",
        lambda self, table=None: decomposed.append(self) or decompose(self, table),
    )
    found = operators(capture(graph, SPEC, dynamic_batch=dynamic_batch))
    assert not decomposed
    monkeypatch.setattr(capturing, "_whole", lambda program: program)
    assert operators(capture(graph, SPEC, dynamic_batch=dynamic_batch)) == found
    assert decomposed


@pytest.mark.parametrize("activation", [nn.Softshrink(), nn.BatchNorm2d(4)])
def test_an_operator_that_onnx_lacks_whole_is_decomposed(activation):
    network = Network(activation).eval()
    images = np.random.default_rng(0).standard_normal((1, 3, 8, 8), dtype=np.float32)
    model = capture(captured(network, SPEC), SPEC, dynamic_batch=False)
    expected = network(torch.from_numpy(images)).detach().numpy()
    np.testing.assert_allclose(outputs(model, images), expected, atol=1e-5)
