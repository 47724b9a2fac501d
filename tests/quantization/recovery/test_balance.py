from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from compress.core.artifact import InputSpec
from compress.core.errors import StageError
from compress.quantization.ptq import float_graph
from compress.quantization.recovery.balance import balance
from compress.quantization.recovery.watch import channel_statistics

SPEC = InputSpec((3, 8, 8))


def network(activation: nn.Module | None = None, *, spread: float = 5.0) -> nn.Module:
    """Pointwise, depthwise, pointwise; the pointwise outputs differ in size by up to e^spread."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        activation or nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.ReLU(),
        nn.Conv2d(8, 4, 1),
    )
    with torch.no_grad():
        size = torch.linspace(0, -spread, 8).exp()
        layers[0].weight.mul_(size.view(-1, 1, 1, 1))
        layers[0].bias.mul_(size)
    return layers.eval()


def images() -> torch.Tensor:
    return torch.randn(16, *SPEC.shape, generator=torch.Generator().manual_seed(1))


def depthwise_input_peaks(graph):
    node = next(node for node in graph.graph.nodes if node.name == "conv2d_1")
    return channel_statistics(graph, {node.args[0]: 1}, [images()])[node.args[0]].peak


def test_the_function_stays_and_a_depthwise_layer_reads_equal_peaks():
    graph = float_graph(network(), SPEC)
    before, peaks = graph(images()), depthwise_input_peaks(graph)
    assert peaks.max() / peaks.min() > 50
    assert balance(graph, lambda: [images()]) == ("2", "4")
    torch.testing.assert_close(graph(images()), before, rtol=1e-4, atol=1e-5)
    peaks = depthwise_input_peaks(graph)
    assert peaks.max() / peaks.min() == pytest.approx(1, rel=1e-3)


def test_balanced_activations_survive_one_scale():
    graph = float_graph(network(spread=8), SPEC)
    balanced = copy.deepcopy(graph)
    balance(balanced, lambda: [images()])

    def noise(graph) -> float:
        """Relative error of the smallest channel of the depthwise layer's input in 255 steps."""
        node = next(n for n in graph.graph.nodes if n.name.startswith("conv2d_1")).args[0]
        seen = channel_statistics(graph, {node: 1}, [images()])[node]
        return float(seen.peak.max() / 255 / seen.peak.min())

    assert noise(graph) > 1  # less than one step left
    assert noise(balanced) < 1 / 250


def test_channels_stay_below_a_clip():
    graph = float_graph(network(nn.ReLU6()), SPEC)
    before = graph(images())
    balance(graph, lambda: [images()])
    torch.testing.assert_close(graph(images()), before, rtol=1e-4, atol=1e-5)
    assert depthwise_input_peaks(graph).max() <= 6 * 0.75 + 1e-4


def test_alike_channels_and_dead_ones_are_left_alone():
    model = network(spread=0)
    with torch.no_grad():
        model[0].weight.fill_(0.1)
        model[0].bias.zero_()
        model[0].weight[3] = 0
        model[2].weight.fill_(0.1)
        model[2].bias.zero_()
        model[4].weight.fill_(0.1)
    graph = float_graph(model, SPEC)
    weights = {name: value.clone() for name, value in graph.named_parameters()}
    assert balance(graph, lambda: [images()]) == ()
    assert all(torch.equal(value, weights[name]) for name, value in graph.named_parameters())


def test_a_flattened_image_is_balanced_by_channel():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    with torch.no_grad():
        model[0].weight[0].mul_(50)
    graph = float_graph(model, SPEC)
    before = graph(images())
    assert balance(graph, lambda: [images()]) == ("3",)
    torch.testing.assert_close(graph(images()), before, rtol=1e-4, atol=1e-4)


def test_no_images_and_bad_images_are_errors():
    with pytest.raises(StageError, match="calibration split is empty"):
        balance(float_graph(network(), SPEC), list)
    with pytest.raises(StageError, match="NaN or infinity"):
        balance(float_graph(network(), SPEC), lambda: [torch.full((1, *SPEC.shape), torch.inf)])
