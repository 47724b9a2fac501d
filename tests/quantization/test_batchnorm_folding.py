"""Folding: same outputs on every kind of layer, and what is left alone with the reason."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from compress.core.artifact import InputSpec
from compress.graph.capture import call_nodes, capture
from compress.quantization.batchnorm import fold_graph, fold_module

SPEC = InputSpec((3, 32, 32))


def lively(module):
    """Statistics that a forgotten term would show up in."""
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.normal_(0, 0.2)
            part.running_var.uniform_(0.3, 2)
            if part.affine:
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.normal_(part.bias, 0, 0.2)
    return module.eval()


@torch.no_grad()
def check(module, spec=SPEC):
    """(folded, reasons), after asserting equality for both ways of folding."""
    module = lively(module)
    x = torch.randn(2, *spec.shape)
    graph = capture(module, spec)
    expected = module(x)
    folded, count, kept = fold_module(module, graph)
    on_graph = copy.deepcopy(graph)
    assert fold_graph(on_graph)[0] >= count
    for result in (folded(x), on_graph(x)):
        assert (result - expected).abs().max() <= 1e-5 * expected.abs().max()
    return folded, count, kept, on_graph


def norms(module):
    return sum(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())


@pytest.mark.parametrize(("name", "layers"), [("resnet18", 20), ("mobilenet_v2", 52), ("mobilenet_v3_small", 34)])
def test_torchvision_networks_lose_every_normalisation(name, layers):
    module = getattr(torchvision.models, name)()
    folded, count, kept, _ = check(module)
    assert (count, kept, norms(folded), norms(module)) == (layers, [], 0, layers)


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ([nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6)], (3, 8, 8)),
        ([nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6, affine=False)], (3, 8, 8)),
        ([nn.ConvTranspose2d(3, 4, 3), nn.BatchNorm2d(4)], (3, 8, 8)),
        ([nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6)], (4, 8, 8)),
        ([nn.Flatten(), nn.Linear(192, 5), nn.BatchNorm1d(5)], (3, 8, 8)),
        ([nn.Flatten(2), nn.Conv1d(3, 5, 3), nn.BatchNorm1d(5)], (3, 8, 8)),
    ],
    ids=["groups", "no affine", "transposed", "transposed groups", "linear", "conv1d"],
)
def test_kinds_of_layer(layers, shape):
    order = {"channel_order": "planes", "mean": (0.5,) * shape[0], "std": (1.0,) * shape[0]}
    folded, count, kept, _ = check(nn.Sequential(*layers), InputSpec(shape, **order))
    assert (count, kept, norms(folded)) == (1, [], 0)
    assert folded[-2].bias is not None


def test_zeros_of_pruned_weights_stay_zeros():
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    with torch.no_grad():
        module[0].weight[module[0].weight.abs() < 0.1] = 0
    zeros = module[0].weight == 0
    folded, *_ = check(module)
    assert torch.equal(folded[0].weight == 0, zeros)


def test_a_layer_used_twice_stays_with_the_reason():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.conv(self.norm(self.conv(x)))

    folded, count, kept, _ = check(Twice())
    assert (count, kept, norms(folded)) == (0, ["norm stays: conv is used more than once"], 1)


def test_an_output_that_branches_stays_with_the_reason():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            y = self.conv(x)
            return self.norm(y) + y

    _, count, kept, _ = check(Branch())
    assert (count, kept) == (0, ["norm stays: the output of conv is also used elsewhere"])


def test_functional_normalisation_is_folded_on_the_graph_only():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, bias=False)
            self.register_buffer("mean", torch.randn(4))
            self.register_buffer("var", torch.rand(4) + 0.5)

        def forward(self, x):
            return F.batch_norm(self.conv(x), self.mean, self.var)

    _, count, kept, graph = check(Functional())
    assert count == 0
    assert "called as a function" in kept[0]
    assert [str(node.target) for node in call_nodes(graph)] == ["aten.conv2d.default"]


def test_a_normalisation_without_a_layer_before_it_is_left_alone():
    folded, count, kept, _ = check(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 1)))
    assert (count, kept, norms(folded)) == (0, [], 1)


class SharedNorm(nn.Module):
    """One normalisation after a convolution, and again after a sum."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm(x + self.norm(self.conv(x)).relu())


def test_a_normalisation_called_twice_stays_in_the_module():
    folded, count, kept, graph = check(SharedNorm())
    assert (count, kept, norms(folded)) == (0, ["norm stays: it is used more than once"], 1)
    assert [str(node.target) for node in call_nodes(graph)].count("aten.batch_norm.default") == 1


class Aliased(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.also = self.norm

    def forward(self, x):
        return self.also(self.conv(x))


def test_a_normalisation_with_two_names_goes_under_both():
    folded, count, _, _ = check(Aliased())
    assert (count, norms(folded)) == (1, 0)
    assert isinstance(folded.also, nn.Identity)


class NormAct(nn.BatchNorm2d):
    """A normalisation with its activation inside."""

    def forward(self, x):
        return super().forward(x).relu()


def test_a_normalisation_that_does_more_stays_in_the_module():
    folded, count, kept, _ = check(nn.Sequential(nn.Conv2d(3, 4, 3), NormAct(4)))
    assert (count, kept, norms(folded)) == (0, ["1.batch_norm stays: NormAct does more than normalise"], 1)


def test_a_normalisation_with_a_hook_stays_in_the_module():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    module[1].register_forward_hook(lambda _module, _inputs, output: output * 2)
    assert check(module)[1] == 0


class WithoutBias(nn.Conv2d):
    """A convolution whose own code never looks for a bias."""

    def forward(self, x):
        return F.conv2d(x, self.weight)


def test_a_layer_that_would_not_add_its_new_bias_stays_in_the_module():
    _, count, kept, _ = check(nn.Sequential(WithoutBias(3, 4, 3, bias=False), nn.BatchNorm2d(4)))
    assert count == 0
    assert "has a forward of its own" in kept[0]


def test_parameters_of_a_normalisation_that_are_read_elsewhere_keep_it():
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.norm(self.conv(x)) * self.norm.weight.view(1, -1, 1, 1)

    assert check(Gate())[1] == 0
