"""Bias correction: the mean shift of every channel disappears."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from compress.core.artifact import InputSpec
from compress.core.errors import StageError
from compress.graph.capture import call_nodes
from compress.graph.operators import WEIGHTED, kind_of
from compress.quantization.observers.min_max import MinMax
from compress.quantization.placement import Recipe
from compress.quantization.policy import load_policy
from compress.quantization.ptq import calibrate, convert, float_graph, prepare, quantizers, set_mode
from compress.quantization.recovery.bias_correction import add_missing_biases, correct_biases
from compress.quantization.tensor_quantizer import Mode

SPEC = InputSpec((3, 16, 16))


def network(*, bias=True):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=bias),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8, bias=bias),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 6, bias=bias),
    ).eval()


@pytest.fixture(scope="module")
def images():
    torch.manual_seed(1)
    return torch.rand(64, 3, 16, 16)


def prepared_from(graph, images):
    """One scale per weight tensor, and weights that it rounds badly."""
    prepared = prepare(copy.deepcopy(graph), Recipe(load_policy("onnxruntime"), MinMax, per_channel=False))
    calibrate(prepared, images.split(16))
    return prepared


def coarse(module):
    """Every weight tensor gets one large value, so that the others keep few bits."""
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, (nn.Conv2d, nn.Linear)):
                part.weight.view(-1)[0] = 8
    return float_graph(module, SPEC)


@torch.no_grad()
def mean_shift(prepared, reference, images):
    set_mode(prepared, Mode.SIMULATE)
    return (prepared(images) - reference(images)).mean(0).abs().max()


def test_the_mean_output_comes_back(images):
    reference = coarse(network())
    prepared = prepared_from(reference, images)
    before = mean_shift(prepared, reference, images)
    assert correct_biases(prepared, reference, lambda: images.split(16)) == ("0", "2", "6")
    assert mean_shift(prepared, reference, images) < 0.1 * before


def test_what_all_images_share_is_corrected_exactly(images):
    reference = coarse(network())
    prepared = prepared_from(reference, images)
    set_mode(prepared, Mode.OFF)
    with torch.no_grad():
        prepared.get_parameter("2.bias").add_(torch.linspace(-1, 1, 8))
    correct_biases(prepared, reference, lambda: images.split(16))
    for name, bias in reference.named_parameters():
        torch.testing.assert_close(prepared.get_parameter(name), bias, rtol=0, atol=1e-5)


def test_what_one_image_alone_does_hardly_moves_the_others():
    """The mean would move all by a sixteenth of what one image lost; they agree on a sixteenth of that."""
    layer = nn.Conv2d(1, 1, 1)
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    reference = float_graph(layer.eval(), InputSpec((1, 4, 4), "gray", mean=(0.0,), std=(1.0,)))
    within = torch.linspace(0, 1, 256).view(16, 1, 4, 4)
    prepared = prepare(copy.deepcopy(reference), Recipe(load_policy("onnxruntime"), MinMax))
    calibrate(prepared, [within])
    bright = within.clone()
    bright[3] = 17.0
    correct_biases(prepared, reference, lambda: [bright])
    assert prepared.get_parameter("bias").item() == pytest.approx(16 / 16**2, rel=0.05)


def test_modes_ranges_and_weights_stay(images):
    reference = coarse(network())
    prepared = prepared_from(reference, images)
    quantizers(prepared)["3"].mode = Mode.OFF
    modes = {name: quantizer.mode for name, quantizer in quantizers(prepared).items()}
    ranges = {name: quantizer.calculate_qparams()[0].clone() for name, quantizer in quantizers(prepared).items()}
    weight = prepared.get_parameter("0.weight").clone()
    correct_biases(prepared, reference, lambda: images.split(16))
    assert {name: quantizer.mode for name, quantizer in quantizers(prepared).items()} == modes
    assert all(torch.equal(quantizers(prepared)[name].calculate_qparams()[0], scale) for name, scale in ranges.items())
    assert torch.equal(prepared.get_parameter("0.weight"), weight)


def test_layers_without_a_bias_get_one_on_request(images):
    graph = coarse(network(bias=False))
    bare = prepared_from(graph, images)
    assert correct_biases(bare, graph, lambda: [images]) == ()
    reference = copy.deepcopy(graph)
    assert add_missing_biases(graph) == ("0", "2", "6")
    assert torch.equal(graph(images), reference(images))
    prepared = prepared_from(graph, images)
    before = mean_shift(prepared, reference, images)
    set_mode(prepared, Mode.OBSERVE)
    assert correct_biases(prepared, reference, lambda: [images]) == ("0", "2", "6")
    assert mean_shift(prepared, reference, images) < 0.1 * before
    converted = convert(prepared)
    assert all(len(node.args) > 2 for node in call_nodes(converted) if kind_of(node) in WEIGHTED)
    assert (converted(images) - reference(images)).mean(0).abs().max() < 0.2 * before


def test_no_images_and_another_network(images):
    reference = coarse(network())
    prepared = prepared_from(reference, images)
    with pytest.raises(StageError, match="the calibration split is empty"):
        correct_biases(prepared, reference, list)
    other = float_graph(nn.Sequential(nn.Conv2d(3, 4, 3)).eval(), SPEC)
    with pytest.raises(StageError, match="compares 3 quantized layers with 1 float ones"):
        correct_biases(prepared, other, lambda: [images])
