"""Normalisations that cannot be folded: the same function as a depthwise convolution, and integers all the way."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from compress.graph.capture import capture
from compress.quantization.norm_as_conv import normalizations_as_convs
from compress.quantization.policy import load_policy
from compress.quantization.ptq import float_graph, layers_in_float


class Dense(nn.Module):
    """Normalise, then convolve, as DenseNet does."""

    def __init__(self):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(self.norm(x).relu()).mean((2, 3))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm(self.norm(x).relu()).mean((2, 3))


def test_the_same_function(kit):
    module = kit.lively(Dense())
    x = torch.randn(4, 3, 16, 16)
    graph = capture(module, kit.spec)
    expected = module(x)
    graph = copy.deepcopy(graph)
    assert normalizations_as_convs(graph) == 1
    torch.testing.assert_close(graph(x), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(module(x), expected)  # the module is not touched
    assert graph.get_parameter("norm.weight").shape == (3, 1, 1, 1)


def test_each_call_of_a_shared_module_gets_parameters_of_its_own(kit):
    module = kit.lively(Twice())
    x = torch.randn(4, 3, 16, 16)
    graph = copy.deepcopy(capture(module, kit.spec))
    assert normalizations_as_convs(graph) == 2
    torch.testing.assert_close(graph(x), module(x), atol=1e-5, rtol=1e-5)


class Vectors(nn.Module):
    """Normalisations of vectors, with parameters and without: before a linear layer, and at the end."""

    def __init__(self, *, affine):
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 5), nn.BatchNorm1d(3, affine=affine)
        self.last = nn.BatchNorm1d(5, affine=affine)

    def forward(self, x):
        return self.last(self.linear(self.norm(x.relu().mean((2, 3)))).relu())


@pytest.mark.parametrize("affine", [True, False])
def test_vectors_go_into_the_linear_layer_behind_or_are_images_of_one_pixel(kit, affine):
    module = kit.lively(Vectors(affine=affine))
    graph = copy.deepcopy(capture(module, kit.spec))
    assert normalizations_as_convs(graph) == 2
    x = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(graph(x), module(x), atol=1e-5, rtol=1e-5)
    kinds = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    assert kinds.count("aten.conv2d.default") == 1  # the last one
    assert "aten.batch_norm.default" not in kinds
    assert graph(x).shape == (4, 5)


@pytest.mark.parametrize("affine", [True, False])
def test_maps_and_sequences_without_parameters(kit, affine):
    layers = (nn.BatchNorm2d(3, affine=affine), nn.ReLU(), nn.Flatten(2), nn.BatchNorm1d(3, affine=affine))
    module = kit.lively(nn.Sequential(*layers))
    graph = copy.deepcopy(capture(module, kit.spec))
    assert normalizations_as_convs(graph) == 2
    x = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(graph(x), module(x), atol=1e-5, rtol=1e-5)


def test_statistics_of_each_batch_stay(kit):
    graph = copy.deepcopy(capture(nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)).eval(), kit.spec))
    assert normalizations_as_convs(graph) == 0


def test_only_runtimes_without_float_need_it(kit):
    module = kit.lively(Dense())
    strict, loose = load_policy("litert"), load_policy("onnxruntime")
    assert "aten.batch_norm" in str(float_graph(module, kit.spec, loose).graph)
    assert "aten.batch_norm" not in str(float_graph(module, kit.spec, strict).graph)
    assert layers_in_float(float_graph(module, kit.spec, strict), kit.recipe("litert")) == {}


def test_no_pair_stands_between_an_operator_and_the_activation_it_absorbs(kit):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    graph = kit.quantize(net, torch.randn(8, 3, 16, 16), kit.spec, kit.recipe("litert"))
    (relu,) = [node for node in graph.graph.nodes if "relu" in str(node.target)]
    assert "dequantize" not in str(relu.args[0].target)


def test_a_matrix_has_one_scale_where_the_kernel_takes_no_more(kit):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 14 * 14, 5)).eval()
    graph = kit.quantize(net, torch.randn(8, 3, 16, 16), kit.spec, kit.recipe("edgetpu"))
    names = dict(graph.named_buffers())
    assert "0.weight_scale" in names  # one for each filter
    assert "2.weight" in names
    assert "2.weight_scale" not in names
