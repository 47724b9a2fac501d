"""Equalization: the same function, one range for all channels, and the clip left alone."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

from compress.core.artifact import InputSpec
from compress.data import CsvData, load_splits
from compress.graph.capture import bind, call_nodes, constant
from compress.graph.operators import WEIGHTED, kind_of
from compress.quantization.observers import load_observer
from compress.quantization.placement import Recipe
from compress.quantization.policy import load_policy
from compress.quantization.ptq import calibrate, float_graph, prepare, set_mode
from compress.quantization.recovery.bias_correction import correct_biases
from compress.quantization.recovery.channels import Side, largest, scaled
from compress.quantization.recovery.equalize import equalize
from compress.quantization.tensor_quantizer import Mode

SPEC = InputSpec((3, 16, 16))


def graph_of(*layers, spec=SPEC):
    torch.manual_seed(0)
    return float_graph(nn.Sequential(*layers).eval(), spec)


def layers_of(graph):
    return [node for node in call_nodes(graph) if kind_of(node) in WEIGHTED]


def ranges(graph, position, side):
    layer = layers_of(graph)[position]
    return largest(layer, constant(graph, layer.args[1]), side)


@torch.no_grad()
def assert_same_function(before, after, x):
    expected = before(x)
    assert (after(x) - expected).abs().max() <= 1e-4 * expected.abs().max()


def unbalance(graph, seed=0):
    """Multiply every hidden channel by a factor in [1/64, 64] and divide the next layer by it."""
    generator = torch.Generator().manual_seed(seed)
    layers = layers_of(graph)
    for first, second in itertools.pairwise(layers):
        before, after = (constant(graph, layer.args[1]).double() for layer in (first, second))
        channels = len(largest(first, before, Side.OUT))
        factor = 2 ** (torch.rand(channels, generator=generator, dtype=torch.double) * 12 - 6)
        bias = constant(graph, first.args[2]).double()
        for node, value in (
            (first.args[1], scaled(first, before, Side.OUT, factor)),
            (first.args[2], bias * factor),
            (second.args[1], scaled(second, after, Side.IN, 1 / factor)),
        ):
            bind(graph, node.target, value.float(), trainable=True)


def test_two_layers_meet_in_the_middle():
    graph = graph_of(nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 4, 3))
    original = copy.deepcopy(graph)
    r1, r2 = ranges(graph, 0, Side.OUT), ranges(graph, 1, Side.IN)
    assert equalize(graph) == ("0", "2")
    torch.testing.assert_close(ranges(graph, 0, Side.OUT), (r1 * r2).sqrt())  # equation 12
    torch.testing.assert_close(ranges(graph, 1, Side.IN), (r1 * r2).sqrt())
    assert_same_function(original, graph, torch.randn(2, 3, 16, 16))


@pytest.mark.parametrize(
    ("layers", "count"),
    [
        ([nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3, groups=8), nn.Conv2d(16, 4, 1)], 3),
        ([nn.Conv2d(3, 8, 3), nn.LeakyReLU(0.1), nn.MaxPool2d(2), nn.Conv2d(8, 6, 3, groups=2)], 2),
        ([nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 6, 3, groups=2), nn.ReLU(), nn.Conv2d(6, 3, 1)], 3),
        (
            [
                nn.Conv2d(3, 4, 3),
                nn.ReLU(),
                nn.AvgPool2d(7),
                nn.Flatten(),
                nn.Linear(16, 5),
                nn.ReLU(),
                nn.Linear(5, 2),
            ],
            3,
        ),
        ([nn.Conv2d(3, 8, 3), nn.Sigmoid(), nn.Conv2d(8, 4, 3)], 0),
        ([nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.Conv2d(8, 4, 3)], 0),
    ],
)
def test_what_is_equalized(layers, count):
    graph = graph_of(*layers)
    original = copy.deepcopy(graph)
    assert len(equalize(graph)) == count
    assert_same_function(original, graph, torch.randn(2, 3, 16, 16))


def test_a_dead_channel_stays():
    first, second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
    with torch.no_grad():
        first.weight[1], first.bias[1] = 0, 0
        second.weight[:, 2] = 0
    graph = graph_of(first, nn.ReLU(), second)
    original = copy.deepcopy(graph)
    equalize(graph)
    assert all(parameter.isfinite().all() for parameter in graph.parameters())
    assert_same_function(original, graph, torch.randn(2, 3, 16, 16))


def test_a_bias_counts_as_part_of_its_channel():
    first, second = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 1)
    with torch.no_grad():
        first.weight[0], first.bias[0] = 1e-6, 1.0  # next to nothing but its bias
    graph = graph_of(first, nn.ReLU(), second)
    equalize(graph)
    bias = constant(graph, layers_of(graph)[0].args[2])
    assert bias.abs().max() < 10


def test_clips_hold_only_the_channels_that_reach_them():
    first = nn.Conv2d(3, 3, 1, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.diag(torch.tensor([0.01, 1.0, 9.0]))[..., None, None])
    graph = graph_of(first, nn.ReLU6(), nn.Conv2d(3, 4, 1))
    original = copy.deepcopy(graph)
    images = torch.rand(4, 3, 16, 16)
    assert equalize(graph, lambda: [images]) == ("0", "2")
    assert ranges(graph, 0, Side.OUT)[2] == 9
    assert ranges(graph, 0, Side.OUT)[0] > 0.03
    assert_same_function(original, graph, images)


def test_a_residual_sum_is_not_scaled():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv1, self.conv2 = (nn.Conv2d(c, 6, 3, padding=1) for c in (3, 6, 6))
            self.head = nn.Conv2d(6, 4, 1)

        def forward(self, x):
            x = self.stem(x).relu()
            return self.head((x + self.conv2(self.conv1(x).relu())).relu())

    torch.manual_seed(0)
    graph = float_graph(Block().eval(), SPEC)
    original = copy.deepcopy(graph)
    assert equalize(graph) == ("conv1", "conv2")
    assert_same_function(original, graph, torch.randn(2, 3, 16, 16))


def test_shared_weights_are_left_alone():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3)

        def forward(self, x):
            return self.conv(self.conv(x).relu())

    assert equalize(float_graph(Twice().eval(), SPEC)) == ()


@pytest.mark.slow
@pytest.mark.real_data
@torch.no_grad()
def test_a_badly_scaled_mobilenet_comes_back(shared_data, monkeypatch):
    """The function is the same, one scale per weight tensor is hopeless, and equalization undoes it."""
    monkeypatch.syspath_prepend(shared_data)
    nets = pytest.importorskip("nets")
    network = nets.MobileNetV1_025()
    weights = shared_data / "weights/mobilenetv1_0.25_state_dict.pt"
    network.load_state_dict(torch.load(weights, weights_only=True))
    calibration, images, labels = nips(shared_data)
    graph = float_graph(network.eval(), InputSpec((3, 224, 224)))
    scaled_graph = copy.deepcopy(graph)
    unbalance(scaled_graph)
    assert_same_function(graph, scaled_graph, images[:8])
    expected = (logits(quantized(graph, calibration), images).argmax(1) == labels).float().mean()
    collapsed = (logits(quantized(scaled_graph, calibration[:1]), images[:50]).argmax(1) == labels[:50]).float().mean()
    assert collapsed < 0.05
    assert len(equalize(scaled_graph)) == 28
    assert_same_function(graph, scaled_graph, images[:8])
    prepared = quantized(scaled_graph, calibration)
    correct_biases(prepared, scaled_graph, lambda: calibration[:2])
    assert (logits(prepared, images).argmax(1) == labels).float().mean() >= expected - 0.01


def nips(shared_data):
    config = CsvData(
        kind="csv",
        file=shared_data / "images/nips2017/labels_and_attribution.csv",
        path_column="file",
        label_column="imagenet_class_0based",
        resize=256,
        classes=1000,
        calibration=128,
        validation=0,
        finetune=0,
    )
    splits = load_splits(config, InputSpec((3, 224, 224)))
    calibration = [torch.from_numpy(batch.images) for batch in splits.calibration.batches(32)]
    batch = next(splits.evaluation.batches(200))
    return calibration, torch.from_numpy(batch.images), torch.from_numpy(batch.labels)


def quantized(graph, calibration):
    """The integers simulated, one scale per weight tensor."""
    recipe = Recipe(load_policy("onnxruntime"), load_observer("mse"), per_channel=False)
    prepared = prepare(copy.deepcopy(graph), recipe)
    calibrate(prepared, calibration)
    set_mode(prepared, Mode.SIMULATE)
    return prepared


def logits(model, images):
    return torch.cat([model(batch) for batch in images.split(50)])
