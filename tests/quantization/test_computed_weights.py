"""Weights that a network computes from its parameters alone become stored ones."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from compress.core.artifact import InputSpec
from compress.graph.capture import call_nodes, capture, parameter_name
from compress.quantization.computed_weights import computed_layers, fold_parameters
from compress.quantization.ptq import float_graph, layers_in_float

SPEC = InputSpec((3, 8, 8))


class Standardized(nn.Conv2d):
    """Weight standardization (Qiao et al. 2019): the kernel is normalised inside forward."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / torch.sqrt(self.weight.var((1, 2, 3), keepdim=True, unbiased=False) + 1e-6)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


def network(kind):
    torch.manual_seed(0)
    layers = {
        "standardized": lambda: Standardized(3, 6, 3),
        "weight norm": lambda: parametrizations.weight_norm(nn.Conv2d(3, 6, 3)),
        "old weight norm": lambda: nn.utils.weight_norm(nn.Conv2d(3, 6, 3)),
        "spectral norm": lambda: parametrizations.spectral_norm(nn.Conv2d(3, 6, 3)),
        "transposed": lambda: parametrizations.weight_norm(nn.ConvTranspose2d(3, 6, 3)),
    }
    return nn.Sequential(layers[kind](), nn.GroupNorm(2, 6), nn.ReLU(), nn.Conv2d(6, 4, 3)).eval()


KINDS = ["standardized", "weight norm", "old weight norm", "spectral norm", "transposed"]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_function_with_stored_weights(kind):
    module, images = network(kind), torch.randn(4, *SPEC.shape)
    graph = capture(module, SPEC)
    assert len(computed_layers(graph)) == 1
    fold_parameters(graph)
    assert not computed_layers(graph)
    torch.testing.assert_close(graph(images), module(images), rtol=0, atol=1e-6)
    weights = [parameter_name(node.args[1]) for node in call_nodes(graph) if "conv" in str(node.target)]
    assert weights == ["0.weight", "3.weight"]
    assert isinstance(graph.get_parameter("0.weight"), nn.Parameter)  # training may go on from here


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_quantization_sees_a_weight_like_any_other(kit, kind):
    module, images = kit.lively(network(kind)), torch.randn(16, *SPEC.shape)
    before = copy.deepcopy(module.state_dict())
    graph = float_graph(module, SPEC)
    assert not {"conv2d", "conv_transpose2d"} & set(layers_in_float(graph, kit.recipe()))
    quantized = kit.quantize(module, images, SPEC, kit.recipe())
    assert kit.sqnr(module(images), quantized(images)) > 25
    assert quantized.get_buffer("0.weight").dtype is torch.int8
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


class Shared(nn.Module):
    """The parameter is read as it is, too: it must keep its name and value."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1, bias=False)

    def forward(self, x):
        return F.conv2d(self.layer(x), self.layer.weight * 2, padding=1)


def test_a_parameter_that_is_also_read_itself_stays():
    module, images = Shared().eval(), torch.randn(4, *SPEC.shape)
    graph = capture(module, SPEC)
    weight = graph.get_parameter("layer.weight").detach().clone()
    assert fold_parameters(graph) == 1
    torch.testing.assert_close(graph(images), module(images))
    torch.testing.assert_close(graph.get_parameter("layer.weight").detach(), weight)


class Untouched(nn.Module):
    """Nothing here is computed from parameters alone: a weight that is only moved, and noise."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 5))

    def forward(self, x):
        return F.linear(x.mean((2, 3)), self.weight.t()) + torch.rand_like(self.weight)[0]


def test_moved_weights_and_random_numbers_are_left_alone():
    graph = capture(Untouched().eval(), SPEC)
    assert fold_parameters(graph) == 0
    assert not torch.equal(graph(torch.ones(2, *SPEC.shape)), graph(torch.ones(2, *SPEC.shape)))


class Queried(nn.Module):
    """Attention asked by something else than its keys reads its packed weight in two parts."""

    def __init__(self):
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.embed = nn.Conv2d(3, 8, 4, 4)

    def forward(self, x):
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        return self.attend(tokens.mean(1, keepdim=True), tokens, tokens)[0][:, 0]


def test_parts_of_a_weight_are_weights_too(kit):
    """In the module they stay what they are: zeros last, there is nothing to compute."""
    module, images = kit.lively(Queried().eval()), torch.randn(1, *SPEC.shape)
    assert not computed_layers(capture(module, SPEC))
    graph = float_graph(module, SPEC)
    assert "linear" not in layers_in_float(graph, kit.recipe())
    torch.testing.assert_close(graph(images), module(images))
