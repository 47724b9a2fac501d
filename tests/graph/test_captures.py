"""A module is traced once: the graph is used again while the module is what it was, and by no means after."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from compress.core.artifact import InputSpec
from compress.graph import capture as graph_module
from compress.graph.capture import call_nodes, capture

INPUT = InputSpec((3, 8, 8))
IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def traced(monkeypatch):
    """Modules that were traced, in order."""
    modules = []
    export = graph_module._export

    def counted(module, *args, **kwargs):
        modules.append(module)
        return export(module, *args, **kwargs)

    monkeypatch.setattr(graph_module, "_export", counted)
    return modules


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()


def test_a_module_is_traced_once_and_every_caller_may_change_its_graph(traced):
    module = network()
    first = capture(module, INPUT)
    expected = [node.target for node in call_nodes(first)]
    relu = next(node for node in call_nodes(first) if node.target is torch.ops.aten.relu.default)
    relu.replace_all_uses_with(relu.args[0])
    first.graph.erase_node(relu)
    first.recompile()
    graph_module.bind(first, "0.bias", torch.full((4,), 100.0), trainable=False)
    second = capture(module, INPUT)
    assert len(traced) == 1
    assert [node.target for node in call_nodes(second)] == expected
    assert torch.equal(second(IMAGE), module(IMAGE))
    assert second.get_parameter("0.weight").data_ptr() == module[0].weight.data_ptr()


def test_weights_that_change_in_place_are_those_of_the_graph(traced):
    module = network()
    capture(module, INPUT)
    with torch.no_grad():
        module[0].weight.zero_()
        module[1].running_mean.fill_(3)
    assert torch.equal(capture(module, INPUT)(IMAGE), module(IMAGE))
    assert len(traced) == 1


def replace_weight(module):
    module[0].weight = nn.Parameter(torch.zeros(4, 3, 3, 3))


def replace_layer(module):
    module[2] = nn.Hardtanh(0, 1).eval()


def change_setting(module):
    module[1].eps = 10.0


def add_hook(module):
    module[2].register_forward_hook(lambda part, inputs, output: output + 1)


def replace_forward(module):
    module[2].forward = torch.sigmoid


@pytest.mark.parametrize("change", [replace_weight, replace_layer, change_setting, add_hook, replace_forward])
def test_a_module_that_changed_is_traced_again(change, traced):
    module = network()
    capture(module, INPUT)
    change(module)
    assert torch.equal(capture(module, INPUT)(IMAGE), module(IMAGE))
    assert len(traced) == 2


def test_another_shape_or_batch_is_another_graph(traced):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    capture(module, INPUT)
    capture(module, InputSpec((3, 16, 16)))
    fixed = capture(module, INPUT, dynamic_batch=False)
    assert len(traced) == 3
    assert graph_module.static_batch_reason(fixed) is not None
    assert graph_module.static_batch_reason(capture(module, INPUT, dynamic_batch=False)) is not None
    assert len(traced) == 3


def test_a_module_of_which_a_part_is_in_training_mode_shares_its_tensors_too(traced):
    module = network()
    module[2].train()
    graph = capture(module, INPUT)
    assert graph.get_parameter("0.weight").data_ptr() == module[0].weight.data_ptr()
    assert module[2].training
    assert torch.equal(capture(module, INPUT)(IMAGE), module(IMAGE))
    assert len(traced) == 1
    module.train()
    assert torch.equal(capture(module, INPUT)(IMAGE), module.eval()(IMAGE))


def test_no_module_is_kept_alive():
    module = network()
    capture(module, INPUT)
    gone = weakref.ref(module)
    del module
    gc.collect()
    assert gone() is None
