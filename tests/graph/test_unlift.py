"""Programs as modules: what `ExportedProgram.module()` gives, only sooner."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compress.graph.unlift import module_of


class Tied(nn.Module):
    """Parameters used twice, buffers of both kinds, and a constant that is neither."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.second[0].weight = self.first.weight
        self.register_buffer("kept", torch.ones(4))
        self.register_buffer("unkept", torch.full((4,), 2.0), persistent=False)

    def forward(self, x):
        return self.second(self.first(x)) * self.kept + self.unkept * torch.tensor([1.0, 2.0, 3.0, 4.0])


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x * self.calls


class Several(nn.Module):
    def forward(self, x):
        return {"logits": x + 1, "features": x}


def exported(module):
    return torch.export.export(module.eval(), (torch.zeros(2, 4),), strict=False)


def nodes(module):
    return [(node.op, node.name, str(node.target)) for node in module.graph.nodes]


def test_the_same_module():
    network, images = Tied(), torch.randn(2, 4)
    program = exported(network)
    ours, theirs = module_of(program), program.module(check_guards=False)
    assert nodes(ours) == nodes(theirs)
    assert torch.equal(ours(images), theirs(images))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    assert ours.first.weight is network.first.weight  # the storage is shared
    assert "unkept" in dict(ours.named_buffers())


@pytest.mark.parametrize("network", [Counting, Several])
def test_what_writes_to_buffers_or_returns_several_is_left_to_torch(network):
    ours, theirs = module_of(exported(network())), exported(network()).module(check_guards=False)
    for _ in range(2):
        first, second = ours(torch.ones(2, 4)), theirs(torch.ones(2, 4))
        assert str(first) == str(second)
