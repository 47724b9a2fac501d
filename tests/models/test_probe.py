"""What a model may not do to the images of a batch is found at load, with that reason."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compress.core.artifact import InputSpec
from compress.core.errors import ModelError
from compress.graph.probe import probe_module

SPEC = InputSpec((3, 8, 8))


class Net(nn.Module):
    """A classifier with one method to spoil."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4, track_running_stats=False)
        self.head = nn.Linear(4, 5)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3)))


class BatchStatistics(Net):
    def forward(self, x):
        return self.head(self.norm(self.conv(x)).mean((2, 3)))


class BatchMean(Net):
    def forward(self, x):
        return super().forward(x) - x.mean()


class OverTheBatch(Net):
    def forward(self, x):
        return super().forward(x).softmax(0)


class Dropout(Net):
    def forward(self, x):
        return self.head(F.dropout(self.conv(x).mean((2, 3)), 0.5))


class Noise(Net):
    def forward(self, x):
        return super().forward(x + 0.1 * torch.randn_like(x))


class Counting(Net):
    def forward(self, x):
        self.calls += 1
        return super().forward(x) + self.calls


@pytest.mark.parametrize("network", [BatchStatistics, BatchMean, OverTheBatch])
def test_answers_that_depend_on_the_batch(network):
    with pytest.raises(ModelError, match=r"depends on the other images of its batch \| fix: BatchNorm with"):
        probe_module(network().eval(), SPEC)


@pytest.mark.parametrize("network", [Dropout, Noise, Counting])
def test_answers_that_differ_between_two_runs(network):
    with pytest.raises(ModelError, match="two different answers for one image, in eval mode"):
        probe_module(network().eval(), SPEC)


class OneRow(Net):
    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3)).view(1, 4))


class FirstTwice(Net):
    """Takes a batch, and answers for it with something that is neither alone nor mixed."""

    def forward(self, x):
        return super().forward(x) * len(x)


@pytest.mark.parametrize("network", [OneRow, FirstTwice])
def test_a_batch_that_says_something_else_is_not_used(network):
    assert probe_module(network().eval(), SPEC) is False


def test_an_ordinary_network_takes_batches_and_random_state_is_left_alone():
    net = Net().eval()
    before = torch.get_rng_state()
    assert probe_module(net, SPEC) is True
    assert torch.equal(torch.get_rng_state(), before)


def test_logits_that_are_no_numbers_agree_with_themselves():
    class Masked(Net):
        def forward(self, x):
            return super().forward(x).masked_fill(torch.arange(5) > 3, float("-inf"))

    assert probe_module(Masked().eval(), SPEC) is True
