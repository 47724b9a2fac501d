"""Regions of a PyTorch call: leaf modules, calls between them, their work, and nothing left behind on the module."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from compress.core.artifact import Format, InputSpec, Precision
from compress.formats.torch.macs import torch_macs
from compress.formats.torch.runtime import TorchRunner
from compress.graph.capture import capture
from compress.profile.layer import Settings, Source
from compress.profile.readers.torch import _count, launch_us, record

SPEC = InputSpec((3, 8, 8))
QUICK = Settings(seconds=0.3, runs=10)


class Net(nn.Module):
    """A residual block: one activation used twice, an addition and a view outside of modules."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.act = nn.ReLU()
        self.head = nn.Linear(8 * 64, 5)

    def forward(self, images):
        x = self.act(self.first(images))
        x = self.act(self.second(x) + x)
        return self.head(torch.flatten(x, 1))


def source(module):
    return Source(Format.TORCH, module, Precision.FP32, SPEC, "net")


def counted(module, batch=1):
    with torch.inference_mode():
        return _count(module, torch.zeros(batch, 3, 8, 8))


def test_leaf_modules_and_the_calls_between_them():
    work = counted(Net().eval())
    assert [(own.name, own.op) for own in work.values()] == [
        ("first", "Conv2d"),
        ("act", "ReLU"),
        ("second", "Conv2d"),
        ("add", "add"),
        ("act_1", "ReLU"),
        ("flatten", "flatten"),
        ("head", "Linear"),
    ]
    assert work["first"].operations == 2 * 8 * 64 * 27
    assert work["first"].bytes == 4 * ((3 + 8) * 64 + 8 * 27 + 8)
    assert work["add"].bytes == 4 * 3 * 8 * 64
    assert (work["flatten"].operations, work["flatten"].bytes) == (0, 0)  # a view


@pytest.mark.parametrize("batch", [1, 3])
def test_operations_are_those_of_the_projects_own_counter(batch):
    module = Net().eval()
    images = np.zeros((batch, 3, 8, 8), np.float32)
    dense = [own for own in counted(module, batch).values() if own.op in ("Conv2d", "Linear")]
    assert sum(own.operations for own in dense) == 2 * torch_macs(TorchRunner(module, threads=1), images)


def test_a_captured_graph_has_the_same_layers():
    names = list(counted(capture(Net().eval(), SPEC)))
    assert [name for name in names if name in ("first", "second", "head")] == ["first", "second", "head"]


def test_times_of_every_layer_in_order():
    module = Net().eval()
    found = record(source(module), QUICK)
    assert [layer.name for layer in found.layers] == list(counted(module))
    assert all(layer.median_ms > 0 for layer in found.layers)
    assert [span.name for span in found.spans] == [layer.name for layer in found.layers]
    assert found.measured_ms > 0
    assert launch_us(1) > 0


def test_nothing_is_left_on_the_module_even_when_it_fails():
    module = Net().eval()
    with pytest.raises(Exception, match="does not run on images"):
        record(Source(Format.TORCH, module, Precision.FP32, InputSpec((1, 8, 8), "gray", (0,), (1,))), QUICK)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    assert torch.overrides._get_current_function_mode() is None
    record(source(module), QUICK)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_a_model_that_is_one_layer():
    assert list(counted(nn.Conv2d(3, 4, 3).eval())) == ["model"]
