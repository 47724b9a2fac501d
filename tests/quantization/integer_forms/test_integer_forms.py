"""Layers written with other operators: the very same function, none of the old operators, other runtimes untouched."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from compress.core.artifact import InputSpec
from compress.graph.capture import call_nodes, capture, layer_name
from compress.quantization.integer_forms import expand
from compress.quantization.policy import IntegerForm, load_policy
from compress.quantization.ptq import float_graph

SPEC = InputSpec((4, 8, 8), "planes", (0.5,) * 4, (0.5,) * 4)


class Call(nn.Module):
    """A function as a layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def expanded(module, *forms, spec=SPEC):
    """The graph, and how many layers were rewritten."""
    graph = copy.deepcopy(capture(module.eval(), spec))
    return graph, expand(graph, forms)


def operators(graph):
    return [str(node.target).removeprefix("aten.").split(".")[0] for node in call_nodes(graph)]


def check_equal(module, graph, spec=SPEC, *, scale=3.0):
    torch.manual_seed(0)
    x = scale * torch.randn(4, *spec.shape)
    with torch.no_grad():
        torch.testing.assert_close(graph(x), module(x), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(
    ("layer", "form", "gone"),
    [
        (nn.ELU(), IntegerForm.ELU, "elu"),
        (nn.ELU(0.3), IntegerForm.ELU, "elu"),
        (nn.SELU(), IntegerForm.ELU, "selu"),
        (nn.CELU(0.7), IntegerForm.ELU, "celu"),
        (nn.SELU(), IntegerForm.SCALED_ELU, "selu"),
        (nn.CELU(2.0), IntegerForm.SCALED_ELU, "celu"),
        (nn.Mish(), IntegerForm.MISH, "mish"),
        (nn.Softplus(), IntegerForm.SOFTPLUS, "softplus"),
        (nn.Softplus(beta=2.5), IntegerForm.SOFTPLUS, "softplus"),
        (nn.LogSigmoid(), IntegerForm.SOFTPLUS, "log_sigmoid"),
        (nn.GELU(approximate="tanh"), IntegerForm.GELU, "gelu"),
        (Call(torch.abs), IntegerForm.ABS, "abs"),
        (Call(lambda x: x**2), IntegerForm.POWER, "pow"),
        (Call(lambda x: x**5), IntegerForm.POWER, "pow"),
        (Call(torch.square), IntegerForm.POWER, "square"),
        (Call(lambda x: (x * x + 1) ** 0.5), IntegerForm.POWER, "pow"),
        (Call(lambda x: (x * x + 1) ** -0.5), IntegerForm.POWER, "pow"),
    ],
    ids=str,
)
def test_the_same_function_without_the_operator(layer, form, gone):
    graph, count = expanded(nn.Sequential(layer), form)
    assert count == 1
    assert gone not in operators(graph)
    check_equal(layer, graph)


@pytest.mark.parametrize(
    ("layer", "form"),
    [(nn.CELU(0.05), IntegerForm.ELU), (nn.CELU(4.0), IntegerForm.ELU), (nn.Mish(), IntegerForm.MISH)],
)
def test_identities_hold_far_out(layer, form):
    x = torch.linspace(-40, 40, 8 * 8 * 4).reshape(1, *SPEC.shape)
    graph, _ = expanded(nn.Sequential(layer), form)
    torch.testing.assert_close(graph(x), layer(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("layer", "form"),
    [
        (nn.GELU(), IntegerForm.GELU),  # the error function is another function
        (nn.ELU(), IntegerForm.SCALED_ELU),  # has a table
        (Call(lambda x: x.abs() ** 1.5), IntegerForm.POWER),
        (Call(lambda x: x**20), IntegerForm.POWER),
        (Call(lambda x: x ** (-1)), IntegerForm.POWER),
    ],
)
def test_what_has_no_such_form_stays(layer, form):
    graph, count = expanded(nn.Sequential(layer), form)
    assert count == 0
    check_equal(layer, graph, scale=1.0)


def test_new_operators_belong_to_the_layer_they_stand_for():
    graph, _ = expanded(nn.Sequential(nn.Conv2d(4, 4, 1), nn.Mish()), IntegerForm.MISH)
    assert {layer_name(node) for node in call_nodes(graph)} == {"0", "1"}


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_a_grouped_convolution_is_full_ones_side_by_side(stride, bias):
    module = nn.Sequential(nn.Conv2d(4, 6, 3, stride, 1, groups=2, bias=bias), nn.ReLU6())
    graph, count = expanded(module, IntegerForm.GROUPS)
    assert count == 1
    part = ["<built-in function getitem>", "conv2d", "hardtanh"]
    assert operators(graph) == ["split", *part, *part, "cat"]
    assert all(len(node.args) < 7 or node.args[6] == 1 for node in call_nodes(graph) if "conv2d" in str(node.target))
    check_equal(module, graph)


def test_depthwise_and_full_convolutions_stay():
    module = nn.Sequential(nn.Conv2d(4, 8, 3, groups=4), nn.Conv2d(8, 4, 1))
    assert expanded(module, IntegerForm.GROUPS)[1] == 0


def test_padding_by_name_and_dilation_go_along():
    module = nn.Sequential(nn.Conv2d(4, 4, 3, padding="same", dilation=2, groups=2))
    graph, count = expanded(module, IntegerForm.GROUPS)
    assert count == 1
    check_equal(module, graph)


class Picture(nn.Module):
    """Normalises pictures itself, then convolves."""

    def __init__(self, padding=0, groups=1):
        super().__init__()
        self.register_buffer("mean", torch.tensor([120.0, 110.0, 100.0, 90.0]))
        self.register_buffer("std", torch.tensor([50.0, 60.0, 70.0, 80.0]).view(1, 4, 1, 1))
        self.conv = nn.Conv2d(4, 8, 3, padding=padding, groups=groups)

    def forward(self, x):
        return self.conv((255.0 * x - self.mean[None, :, None, None]) / self.std)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_normalisation_goes_into_a_convolution_that_pads_nothing(groups):
    module = Picture(groups=groups)
    graph, count = expanded(module, IntegerForm.AFFINE)
    assert (count, operators(graph)) == (1, ["conv2d"])
    check_equal(module, graph)
    assert "conv.weight" in dict(graph.named_parameters())


def test_before_one_that_pads_it_is_a_depthwise_convolution():
    """Zeros around the normalised picture are not zeros around the picture."""
    module = Picture(padding=1)
    graph, count = expanded(module, IntegerForm.AFFINE)
    assert (count, operators(graph)) == (1, ["conv2d", "conv2d"])
    check_equal(module, graph)


def test_a_gain_alone_goes_into_one_that_pads():
    module = nn.Sequential(Call(lambda x: x * 255.0 / 2), nn.Conv2d(4, 8, 3, padding=1))
    graph, count = expanded(module, IntegerForm.AFFINE)
    assert (count, operators(graph)) == (1, ["conv2d"])
    check_equal(module, graph)


class Scaled(nn.Module):
    """A layer scale behind a convolution; `twice` reads the convolution once more."""

    def __init__(self, *, twice=False):
        super().__init__()
        self.conv, self.twice = nn.Conv2d(4, 4, 3, padding=1, bias=False), twice
        self.gamma, self.beta = nn.Parameter(torch.randn(4, 1, 1)), nn.Parameter(torch.randn(1, 4, 1, 1))

    def forward(self, x):
        y = self.conv(x)
        z = self.beta - y * self.gamma
        return z * y if self.twice else z


@pytest.mark.parametrize(("twice", "convolutions"), [(False, 1), (True, 2)])
def test_a_scale_goes_into_the_convolution_before_it_that_nobody_else_reads(twice, convolutions):
    module = Scaled(twice=twice)
    graph, count = expanded(module, IntegerForm.AFFINE)
    assert count == 1
    assert operators(graph).count("conv2d") == convolutions
    assert set(operators(graph)) <= {"conv2d", "mul"}
    check_equal(module, graph)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.relu(x) / 3.5,
        lambda x: torch.relu(x) / torch.tensor(3.5),
        lambda x: torch.relu(x).flatten(1) / 0.25,
    ],
)
def test_a_quotient_is_the_product_with_the_reciprocal(function):
    module = nn.Sequential(Call(function))
    graph, count = expanded(module, IntegerForm.AFFINE)
    assert count == 1
    assert "div" not in operators(graph)
    check_equal(module, graph)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.relu(x) / (x * x + 1),
        lambda x: 1 / (x * x + 1),
        lambda x: torch.relu(x) * 0.5 + 1,  # numbers inside are operands of their own
        lambda x: torch.relu(x) + torch.ones(8, 8),  # a number for each place and not for each channel
        lambda x: torch.relu(x).div(2, rounding_mode="floor"),
        lambda x: torch.relu(x) / 0.0 * 0,
    ],
)
def test_other_arithmetic_stays(function):
    module = nn.Sequential(Call(function))
    before = operators(capture(module.eval(), SPEC))
    graph, count = expanded(module, IntegerForm.AFFINE)
    assert (count, operators(graph)) == (0, before)


@pytest.mark.parametrize("policy", ["onnxruntime", "tensorrt", "torch"])
def test_other_runtimes_keep_their_operators(policy):
    assert load_policy(policy).expands == ()
    module = nn.Sequential(
        Picture(), nn.Mish(), nn.Conv2d(8, 8, 1, groups=2), nn.SELU(), nn.BatchNorm2d(8, affine=False)
    ).eval()
    graph = float_graph(module, SPEC, load_policy(policy))
    assert {"mish", "selu", "batch_norm", "div", "sub"} <= set(operators(graph))
    assert "split" not in operators(graph)


@pytest.mark.parametrize("policy", ["litert", "edgetpu"])
def test_a_policy_names_what_its_runtime_needs(policy):
    module = nn.Sequential(Picture(), nn.Mish(), nn.Conv2d(8, 8, 1, groups=2), nn.SELU(), nn.MaxPool2d(2)).eval()
    graph = float_graph(module, SPEC, load_policy(policy))
    assert ("split" in operators(graph)) == (policy == "edgetpu")
    assert ("elu" in operators(graph)) == (policy == "litert")
    check_equal(module, graph)
