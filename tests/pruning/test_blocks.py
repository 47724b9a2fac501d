"""Residual branches: which can be dropped, and that nothing of them is left in the exported graph."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from compress.graph.capture import call_nodes, capture
from compress.pruning.blocks import drop, drop_damage, find_blocks

sys.path.insert(0, str(Path(__file__).parent))
from networks import RGB, Classifier, Residual, build, layer


class InPlace(nn.Module):
    """As torchvision writes it: the sum and the activation overwrite their inputs."""

    def __init__(self, width):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.relu(self.conv(x))
        y = self.bn(y)
        y += x
        return self.relu(y)


class Offset(nn.Module):
    """A branch that gives something for nothing."""

    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return x + torch.sigmoid(self.conv(x))


def images():
    return torch.randn(2, *RGB.shape, generator=torch.Generator().manual_seed(1))


def test_the_residual_branches_are_found_and_nothing_else():
    blocks = find_blocks(build("residual"), RGB)
    assert [block.name for block in blocks] == ["body.1", "body.2"]
    assert blocks[0].layers == ("body.1.first.0", "body.1.first.1", "body.1.second.0", "body.1.second.1")
    assert find_blocks(build("padded"), RGB) == []
    assert find_blocks(build("concat"), RGB) == []
    assert [block.layers for block in find_blocks(build("transformer"), RGB)] == [("norm2", "up", "down")]


@pytest.mark.parametrize("kind", [Residual, InPlace])
def test_without_the_branch_only_the_shortcut_is_left(kind):
    torch.manual_seed(0)
    module = Classifier(nn.Sequential(layer(3, 16), kind(16), layer(16, 16)), 16).eval()
    (block,) = find_blocks(module, RGB)
    before = copy.deepcopy(module.state_dict())
    short = Classifier(nn.Sequential(module.body[0], module.body[2]), 16).eval()
    short.head = module.head
    dropped = copy.deepcopy(module)
    drop(dropped, block)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    with torch.no_grad():
        assert torch.allclose(dropped(images()), short(images()), atol=1e-6)
    graph = capture(dropped, RGB)
    assert len(call_nodes(graph)) == len(call_nodes(capture(short, RGB)))
    assert sum(p.numel() for p in dropped.parameters()) == sum(p.numel() for p in short.parameters())


def test_a_branch_that_is_not_zero_without_its_layers_stays():
    assert find_blocks(Classifier(nn.Sequential(layer(3, 16), Offset(16)), 16).eval(), RGB) == []


def test_the_damage_is_that_of_the_outputs():
    module = build("residual")
    with torch.no_grad():
        module.body[2].second[1].weight.mul_(1e-4)
        module.body[2].second[1].bias.zero_()
        expected = module(images())
    blocks = find_blocks(module, RGB)
    damage = drop_damage(module, blocks, [images()], [expected])
    assert damage["body.2"] < 1e-3 * damage["body.1"]
    with torch.no_grad():
        assert torch.equal(module(images()), expected)
