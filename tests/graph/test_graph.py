"""Capture: functional graphs, open batch, in-place operators, and idempotence."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from compress.core.artifact import InputSpec
from compress.core.errors import ModelError
from compress.graph.capture import (
    call_nodes,
    capture,
    constant,
    layer_name,
    parameter_name,
    static_batch_reason,
    tensor_inputs,
)

SPEC = InputSpec((3, 8, 8))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5, inplace=True)

    def forward(self, x):
        y = self.conv(x)
        y += x
        y = self.act(y)
        return self.drop(y.flatten(1))


def targets(graph):
    return [str(node.target) for node in call_nodes(graph)]


def test_in_place_operators_become_functional_and_dropout_goes():
    module = Residual().eval()
    graph = capture(module, SPEC)
    assert targets(graph) == ["aten.conv2d.default", "aten.add.Tensor", "aten.relu.default", "aten.flatten.using_ints"]
    for batch in (1, 2, 5):
        x = torch.randn(batch, *SPEC.shape)
        assert torch.equal(graph(x), module(x))
    assert static_batch_reason(graph) is None


def test_a_tensor_read_after_it_was_changed_in_place_is_the_changed_one():
    class Late(nn.Module):
        def forward(self, x):
            y = x * 2
            z = y.add_(1)
            return y * 10 + z

    x = torch.randn(3, *SPEC.shape)
    assert torch.equal(capture(Late().eval(), SPEC)(x), Late()(x))


def test_writing_through_a_view_is_made_functional():
    class View(nn.Module):
        def forward(self, x):
            y = x * 2
            y[:, 0] = 0
            y.flatten(1).relu_()
            return y + 1

    x = torch.randn(3, *SPEC.shape)
    graph = capture(View().eval(), SPEC)
    assert torch.equal(graph(x), View()(x))
    assert not any(target.split(".")[1].endswith("_") for target in targets(graph))


def test_capturing_a_captured_graph_returns_it():
    graph = capture(Residual().eval(), SPEC)
    assert capture(graph, SPEC) is graph


def test_an_exported_program_loses_its_guards_and_nothing_else(tmp_path):
    module = Residual().eval()
    sample = torch.randn(2, *SPEC.shape)
    program = torch.export.export(module, (sample,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    before = len(loaded.graph.nodes)
    graph = capture(loaded, SPEC)
    assert targets(graph) == targets(capture(module, SPEC))
    assert torch.equal(graph(sample), module(sample))
    assert len(loaded.graph.nodes) == before


def test_a_symbolically_traced_module_is_no_captured_graph():
    traced = fx.symbolic_trace(Residual().eval())
    assert targets(capture(traced, SPEC))[0] == "aten.conv2d.default"


def test_training_mode_parts_are_captured_as_in_eval_and_left_as_they_were():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    graph = capture(module, SPEC)
    x = torch.randn(2, *SPEC.shape)
    assert module.training
    torch.testing.assert_close(graph(x), copy.deepcopy(module).eval()(x))


def test_a_batch_that_cannot_stay_open_falls_back_to_one_with_the_reason():
    class Fixed(nn.Module):
        def forward(self, x):
            return x.reshape(1, 192)

    graph = capture(Fixed().eval(), SPEC)
    assert static_batch_reason(graph).startswith("shape '[1, 192]' is invalid for input of size")
    assert graph(torch.randn(1, *SPEC.shape)).shape == (1, 192)


def test_a_module_that_does_not_take_the_input_names_shape_and_fix():
    with pytest.raises(
        ModelError, match=r"cannot capture Conv2d on an input of shape \(1, 3, 8, 8\).*model.input.shape"
    ):
        capture(nn.Conv2d(5, 2, 1).eval(), SPEC)


def test_names_and_constants():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return F.relu(self.stem(x))

    net = Net().eval()
    graph = capture(net, SPEC)
    conv, relu = call_nodes(graph)
    assert parameter_name(conv.args[1]) == "stem.weight"
    assert torch.equal(constant(graph, conv.args[1]), net.stem.weight)
    assert constant(graph, None) is None
    assert (layer_name(conv), layer_name(relu), layer_name(conv.args[0])) == ("stem", "relu", "input")
    assert [layer_name(node) for node in tensor_inputs(conv)] == ["input", "stem.weight", "stem.bias"]


def test_nothing_reaches_the_terminal(capfd):
    capture(Residual().eval(), SPEC)
    assert capfd.readouterr() == ("", "")
