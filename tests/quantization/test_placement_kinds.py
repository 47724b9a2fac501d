"""Networks whose operators hand on masks, several results, or share their output channels between groups."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compress.graph.capture import call_nodes
from compress.quantization.ptq import float_graph, layers_in_float, weights_in_float

POLICIES = ["onnxruntime", "tensorrt", "torch", "litert", "edgetpu"]


def packet(node):
    target = getattr(node, "target", "")
    return getattr(getattr(target, "overloadpacket", None), "__name__", str(target))


class Masked(nn.Module):
    """A mask by comparison: learned gating, a ReLU by hand, a dead zone."""

    def __init__(self, how):
        super().__init__()
        self.first, self.second, self.how = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 3), how

    def forward(self, x):
        y = self.first(x)
        match self.how:
            case "where":
                y = torch.where(y > 0, y, 0.1 * y)
            case "product":
                y = y * (y > 0).float()
            case "filled":
                y = y.masked_fill(y < 0, 0.0)
            case "index":
                y = y + y.argmax(1, keepdim=True).float()
            case "both":
                y = torch.where((y > 0) & (y < 1), y, -y)
        return self.second(y).mean((2, 3))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("how", ["where", "product", "filled", "both"])
def test_masks_have_no_scale(kit, how, policy):
    torch.manual_seed(0)
    module, images = kit.lively(Masked(how).eval()), torch.randn(16, *kit.spec.shape)
    graph = kit.quantize(module, images, kit.spec, kit.recipe(policy))
    assert kit.sqnr(module(images), graph(images)) > 22
    assert "dequantize_per_channel" in {packet(node) for node in call_nodes(graph)}


@pytest.mark.parametrize("policy", POLICIES)
def test_an_index_has_no_scale(kit, policy):
    images = torch.randn(16, *kit.spec.shape)
    kit.quantize(Masked("index").eval(), images, kit.spec, kit.recipe(policy))


class Recurrent(nn.Module):
    """Convolution columns read by an LSTM or GRU; the last step is classified."""

    def __init__(self, kind):
        super().__init__()
        self.conv, self.rnn, self.out = nn.Conv2d(3, 4, 3, 2, 1), kind(32, 8, batch_first=True), nn.Linear(8, 5)

    def forward(self, x):
        columns = torch.relu(self.conv(x)).flatten(1, 2).transpose(1, 2)
        return self.out(self.rnn(columns)[0][:, -1])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_stay_float_and_are_named(kit, kind, policy):
    torch.manual_seed(0)
    module, images = kit.lively(Recurrent(kind).eval()), torch.randn(16, *kit.spec.shape)
    recipe = kit.recipe(policy)
    assert kind.__name__.lower() in layers_in_float(float_graph(module, kit.spec), recipe)
    shares = weights_in_float(float_graph(module, kit.spec), recipe)
    size = sum(parameter.numel() for parameter in module.rnn.parameters())
    assert shares == {"rnn": pytest.approx(size / sum(parameter.numel() for parameter in module.parameters()))}
    graph = kit.quantize(module, images, kit.spec, recipe)
    assert kit.sqnr(module(images), graph(images)) > 25
    (recurrent,) = [node for node in call_nodes(graph) if packet(node) == kind.__name__.lower()]
    weights = [node for node in recurrent.all_input_nodes if "weight" in str(node.target)]
    assert len(weights) == 2  # read as they are, without a pair of their own


class Pieces(nn.Module):
    """Real splits: their pieces keep the scale of the whole."""

    def __init__(self, how):
        super().__init__()
        self.conv, self.out, self.how = nn.Conv2d(3, 8, 3), nn.Conv2d(4, 5, 3), how

    def forward(self, x):
        y = self.conv(x)
        left, right = y.chunk(2, 1) if self.how == "chunk" else y.unflatten(1, (2, 4)).unbind(1)
        return self.out(left + right).mean((2, 3))


@pytest.mark.parametrize("policy", ["onnxruntime", "litert"])
@pytest.mark.parametrize("how", ["chunk", "unbind"])
def test_pieces_of_a_split_are_still_pieces(kit, how, policy):
    torch.manual_seed(0)
    module, images = kit.lively(Pieces(how).eval()), torch.randn(16, *kit.spec.shape)
    graph = kit.quantize(module, images, kit.spec, kit.recipe(policy))
    assert kit.sqnr(module(images), graph(images)) > 25
    pieces = [node for node in call_nodes(graph) if "getitem" in str(node.target)]
    assert [packet(user) for piece in pieces for user in piece.users] == ["quantize_per_tensor"] * 2


@pytest.mark.parametrize("policy", ["onnxruntime", "tensorrt", "litert"])
@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("norm", [True, False])
def test_grouped_transposed_convolutions(kit, policy, groups, norm):
    """One place of the weight's output axis serves a channel of every group, so the bias has no such scales."""
    torch.manual_seed(0)
    up = nn.ConvTranspose2d(4, 8, 4, 2, 1, groups=groups, bias=not norm)
    last = nn.ConvTranspose2d(8, 8, 3, 2, 1, output_padding=1, groups=8)  # depthwise
    layers = [nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), up, nn.BatchNorm2d(8) if norm else nn.Identity(), nn.ReLU(), last]
    module = kit.lively(nn.Sequential(*layers, nn.Conv2d(8, 5, 3)).eval())
    images = torch.randn(16, *kit.spec.shape)
    graph = kit.quantize(module, images, kit.spec, kit.recipe(policy))
    assert kit.sqnr(module(images), graph(images)) > 22
    transposed = [node for node in call_nodes(graph) if packet(node) == "conv_transpose2d"]
    assert [packet(node.args[1]) for node in transposed] == ["dequantize_per_tensor"] * 2


def test_a_transposed_convolution_of_one_group_has_a_scale_for_each_channel(kit):
    module = nn.Sequential(nn.ConvTranspose2d(3, 4, 4, 2, 1), nn.ReLU(), nn.Conv2d(4, 5, 3)).eval()
    graph = kit.quantize(module, torch.randn(16, *kit.spec.shape), kit.spec, kit.recipe())
    (node,) = [node for node in call_nodes(graph) if packet(node) == "conv_transpose2d"]
    assert packet(node.args[1]) == "dequantize_per_channel"
    assert node.args[1].args[3] == 1
