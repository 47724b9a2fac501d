"""A program made of a captured graph is what torch.export would have made of it."""

from __future__ import annotations

import operator

import pytest
import torch
from torch import fx, nn

from compress.core.artifact import InputSpec
from compress.formats.onnx.program import program_for_storing, program_of
from compress.graph.capture import capture

SPEC = InputSpec((3, 8, 8))


class Network(nn.Module):
    """Reads one buffer twice, and the batch size."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.register_buffer("shift", torch.randn(4, 1, 1))

    def forward(self, x):
        y = self.conv(x) + self.shift
        halves = (y * self.shift).chunk(2, dim=1)
        return torch.cat(halves, dim=2).reshape(x.shape[0] * 2, -1).reshape(x.shape[0], -1)


@pytest.fixture
def captured():
    torch.manual_seed(0)
    return capture(Network().eval(), SPEC)


def test_it_computes_the_same(captured):
    images = torch.randn(1, *SPEC.shape)
    torch.testing.assert_close(program_of(captured, SPEC).module()(images), captured(images), rtol=0, atol=0)


def test_constants_keep_their_names_and_are_inputs_once(captured):
    program = program_of(captured, SPEC)
    assert set(program.state_dict) == {"conv.weight", "shift"}
    assert sorted(program.graph_signature.buffers) == ["conv.weight", "shift"]
    assert len(program.graph_signature.user_inputs) == 1
    assert len(program.graph.find_nodes(op="placeholder")) == 3


def test_every_value_has_its_shape_at_batch_1_and_no_size_is_computed(captured):
    program = program_of(captured, SPEC)
    assert captured.graph.find_nodes(op="call_function", target=torch.ops.aten.sym_size.int)
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    assert calls
    for node in calls:
        values = node.meta["val"] if isinstance(node.meta["val"], (list, tuple)) else [node.meta["val"]]
        assert all(type(size) is int for value in values for size in value.shape), node
        assert node.target is operator.getitem or isinstance(node.target, torch._ops.OpOverload)
    assert program.graph.output_node().args[0][0].meta["val"].shape == (1, 4 * 36)


def test_the_captured_graph_stays_as_it_is(captured):
    before, shapes = captured.code, [str(node.meta.get("val")) for node in captured.graph.nodes]
    program_of(captured, SPEC)
    captured.recompile()
    assert captured.code == before
    assert [str(node.meta.get("val")) for node in captured.graph.nodes] == shapes


class Two(nn.Module):
    def forward(self, x, y):
        return x + y


class Pair(nn.Module):
    def forward(self, x):
        return x, x + 1


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x):
        return self.inner(x)


@pytest.mark.parametrize("module", [Two(), Pair(), Inner()], ids=lambda module: type(module).__name__)
def test_other_graphs_are_left_to_the_exporter(module):
    assert program_of(fx.symbolic_trace(module), SPEC) is None


def test_a_constant_of_which_only_the_size_is_read_is_no_error():
    class Sized(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("table", torch.zeros(5, 2))

        def forward(self, x):
            return x * 2

    graph = capture(Sized().eval(), SPEC)
    (double,) = graph.graph.find_nodes(op="call_function", target=torch.ops.aten.mul.Tensor)
    with graph.graph.inserting_before(double):
        table = graph.graph.get_attr("table")
        rows = graph.graph.call_function(torch.ops.aten.sym_size.int, (table, 0))
    double.args = (double.args[0], rows)
    graph.recompile()
    images = torch.randn(1, *SPEC.shape)
    torch.testing.assert_close(program_of(graph, SPEC).module()(images), images * 5)


@pytest.mark.parametrize(
    ("size", "operator_name"),
    [(1, "mean"), ((1, 1), "mean"), (2, "avg_pool2d"), ((4, 2), "avg_pool2d"), (3, "adaptive_avg_pool2d")],
)
def test_a_pooling_to_a_size_is_written_with_operators_of_onnx_where_it_divides(size, operator_name):
    graph = capture(nn.Sequential(nn.AdaptiveAvgPool2d(size), nn.Flatten()).eval(), SPEC)
    program = program_of(graph, SPEC)
    images = torch.randn(1, *SPEC.shape, generator=torch.Generator().manual_seed(0))
    names = [node.name for node in program.graph.nodes if node.op == "call_function"]
    assert names == [operator_name, "flatten"]
    torch.testing.assert_close(program.module()(images), graph(images), rtol=0, atol=1e-6)


def test_a_program_for_storing_takes_any_batch_and_keeps_parameters(captured):
    program = program_for_storing(captured, SPEC)
    images = torch.randn(3, *SPEC.shape)
    assert torch.equal(program.module()(images), captured(images))
    assert dict(program.named_parameters()).keys() == {"conv.weight"}
    assert dict(program.named_buffers()).keys() == {"shift"}


def test_a_graph_of_one_image_is_not_stored_as_one_of_any_batch():
    class One(nn.Module):
        def forward(self, x):
            return x.reshape(1, -1).mul(torch.ones(x.shape[0]))

    assert program_for_storing(capture(One(), SPEC), SPEC) is None
