"""From PyTorch's operators to ONNX's."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
import pytest
import torch
from torch import fx, nn

from compress.core.artifact import InputSpec
from compress.core.errors import StageError
from compress.formats.onnx import capture as capturing
from compress.formats.onnx.assemble import from_module
from compress.formats.onnx.capture import CAPTURE_OPSET, capture
from compress.formats.onnx.interface import set_interface
from compress.formats.onnx.tidy import tidy
from compress.graph.capture import capture as captured
from compress.models.persist import load_module, save_module
from compress.quantization.observers.min_max import MinMax
from compress.quantization.placement import Recipe
from compress.quantization.policy import load_policy
from compress.quantization.ptq import calibrate, convert, float_graph, prepare

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
    return onnx.reference.ReferenceEvaluator(proto).run(None, {model.graph.inputs[0].name: images})[0]


def quantized() -> fx.GraphModule:
    """A captured network with integer weights and explicit quantize and dequantize operators."""
    graph = float_graph(Network(nn.ReLU()).eval(), SPEC)
    prepared = prepare(graph, Recipe(load_policy("onnxruntime"), MinMax))
    calibrate(prepared, [torch.randn(4, *SPEC.shape)])
    return convert(prepared)


def oddly_named() -> fx.GraphModule:
    """A graph whose constants have names that no Python argument may have, as QAT and strangers' modules make them."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    network.add_module("a-b", nn.Linear(4 * 6 * 6, 2))
    graph = captured(network.eval(), SPEC, dynamic_batch=False)
    for node in graph.graph.find_nodes(op="get_attr"):
        assert not str(node.target).isidentifier()
    return graph


GRAPHS = {
    "float": lambda: captured(Network(nn.Hardswish()).eval(), SPEC),
    "newer than opset 18": lambda: captured(Network(nn.GELU()).eval(), SPEC),
    "integers": quantized,
    "odd names": oddly_named,
}


@pytest.mark.parametrize("dynamic_batch", [False, True])
@pytest.mark.parametrize("make", GRAPHS.values(), ids=GRAPHS.keys())
def test_a_captured_graph_comes_out_as_the_public_way_writes_it(monkeypatch, make, dynamic_batch):
    graph = make()
    decomposed = []
    decompose = torch.export.ExportedProgram.run_decompositions
    monkeypatch.setattr(
        torch.export.ExportedProgram,
        "run_decompositions",
        lambda self, table=None: decomposed.append(self) or decompose(self, table),
    )
    found = capture(graph, SPEC, dynamic_batch=dynamic_batch)
    assert not decomposed
    monkeypatch.setattr(capturing, "translate_whole", lambda program, opset: None)
    public = capture(graph, SPEC, dynamic_batch=dynamic_batch)
    assert decomposed
    assert found.opset_imports == public.opset_imports == {"": CAPTURE_OPSET}
    for model in (found, public):
        set_interface(model, SPEC, dynamic_batch=dynamic_batch)
        tidy(model)
    assert operators(found) == operators(public)
    images = np.random.default_rng(0).standard_normal((1, 3, 8, 8), dtype=np.float32)
    np.testing.assert_array_equal(outputs(found, images), outputs(public, images))


def test_a_captured_graph_is_not_traced_again(monkeypatch):
    graph = quantized()
    monkeypatch.setattr(torch.export, "export", pytest.fail)
    assert operators(capture(graph, SPEC, dynamic_batch=False))["Conv"] == 1


@pytest.mark.parametrize("dynamic_batch", [False, True])
def test_a_captured_graph_that_takes_other_images_is_refused_in_one_line(dynamic_batch):
    graph = captured(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2)).eval(), SPEC)
    with pytest.raises(StageError, match="cannot capture the model"):
        capture(graph, InputSpec((3, 9, 9)), dynamic_batch=dynamic_batch)


@pytest.mark.parametrize("make", GRAPHS.values(), ids=GRAPHS.keys())
def test_a_graph_that_was_stored_meanwhile_gives_the_same_file(make, tmp_path):
    graph = make()
    assert save_module(graph, SPEC, tmp_path, source=None)
    (path,) = tmp_path.iterdir()
    files = []
    for module in (graph, load_module(path, source=None)):
        model = from_module(module, SPEC, dynamic_batch=False)
        files.append(ir.serde.serialize_model(model).SerializeToString(deterministic=True))
    assert files[0] == files[1]


@pytest.mark.parametrize("activation", [nn.Softshrink(), nn.BatchNorm2d(4)])
def test_an_operator_that_onnx_lacks_whole_is_decomposed(activation):
    network = Network(activation).eval()
    images = np.random.default_rng(0).standard_normal((1, 3, 8, 8), dtype=np.float32)
    model = capture(captured(network, SPEC), SPEC, dynamic_batch=False)
    expected = network(torch.from_numpy(images)).detach().numpy()
    np.testing.assert_allclose(outputs(model, images), expected, atol=1e-5)


def test_a_folded_network_is_translated_without_decomposing_it(monkeypatch):
    """Its global pooling is the one operator that the exporter would trace the whole network again for."""
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    ).eval()
    monkeypatch.setattr(torch.onnx, "export", lambda *args, **kwargs: pytest.fail("decomposed"))
    assert "Conv" in {node.op_type for node in capture(module, SPEC, dynamic_batch=False).graph}
