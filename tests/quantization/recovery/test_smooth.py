"""SmoothQuant on a small vision transformer with planted outlier channels."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import nn

from compress.core.artifact import InputSpec
from compress.core.errors import StageError
from compress.formats.parity import FidelityMeter
from compress.graph.capture import call_nodes, constant
from compress.quantization.observers.min_max import MinMax
from compress.quantization.placement import Recipe
from compress.quantization.policy import load_policy
from compress.quantization.ptq import calibrate, float_graph, prepare, set_mode
from compress.quantization.recovery.smooth import smooth
from compress.quantization.tensor_quantizer import Mode

SPEC = InputSpec((3, 32, 32))


@pytest.fixture(scope="module")
def transformer():
    """Two channels of every normalisation are 60 times the others, as in trained transformers."""
    torch.manual_seed(0)
    network = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=10
    ).eval()
    nn.init.normal_(network.heads.head.weight)
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, nn.LayerNorm):
                part.weight[:2] *= 60
        for layer in network.encoder.layers:
            layer.self_attention.in_proj_weight[:, :2] /= 60
            layer.mlp[0].weight[:, :2] /= 60
        network.heads.head.weight[:, :2] /= 60
    return float_graph(network, SPEC)


@pytest.fixture(scope="module")
def images():
    torch.manual_seed(1)
    return torch.randn(32, 3, 32, 32)


@torch.no_grad()
def sqnr_db(graph, reference, images):
    prepared = prepare(copy.deepcopy(graph), Recipe(load_policy("onnxruntime"), MinMax))
    calibrate(prepared, [images])
    set_mode(prepared, Mode.SIMULATE)
    meter = FidelityMeter()
    meter.update(reference(images).numpy(), prepared(images).numpy())
    return meter.result().sqnr_db


def test_outliers_stop_costing_accuracy(transformer, images):
    graph = copy.deepcopy(transformer)
    names = smooth(graph, lambda: images.split(8))
    assert names == (
        "encoder.layers.encoder_layer_0.ln_1",
        "encoder.layers.encoder_layer_0.ln_2",
        "encoder.layers.encoder_layer_1.ln_1",
        "encoder.layers.encoder_layer_1.ln_2",
        "encoder.ln",
    )
    with torch.no_grad():
        expected = transformer(images)
        assert (graph(images) - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert sqnr_db(graph, transformer, images) > sqnr_db(transformer, transformer, images) + 6


def test_the_factors_are_those_of_the_paper():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(2), nn.LayerNorm(64), nn.Linear(64, 8), nn.Flatten(1), nn.Linear(24, 2)).eval()
    graph, images = float_graph(network, InputSpec((3, 8, 8))), torch.randn(16, 3, 8, 8)
    peak = network[1](images.flatten(2)).abs().amax((0, 1))
    expected = peak**0.75 / network[2].weight.abs().amax(0) ** 0.25
    assert smooth(graph, lambda: [images], alpha=0.75) == ("1",)
    norm = next(node for node in call_nodes(graph) if "layer_norm" in str(node.target))
    torch.testing.assert_close(1 / constant(graph, norm.args[2]), expected.detach())


def test_a_normalisation_read_by_something_else_stays():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.linear = nn.LayerNorm(16), nn.Linear(16, 16)

        def forward(self, x):
            x = self.norm(x.flatten(1)[:, :16])
            return self.linear(x) + x

    assert smooth(float_graph(Both().eval(), InputSpec((3, 8, 8))), lambda: [torch.randn(2, 3, 8, 8)]) == ()


def test_bad_options(transformer):
    with pytest.raises(ValueError, match=r"alpha must be between 0 and 1, got 1\.5"):
        smooth(transformer, list, alpha=1.5)
    with pytest.raises(StageError, match="the calibration split is empty"):
        smooth(transformer, list)
