"""Folding of high ranks: fewer axes, the same numbers, and nothing touched that cannot be folded."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compress.core.artifact import InputSpec
from compress.formats.tflite.fold_rank import fold_ranks
from compress.formats.tflite.specialize import SHAPE, batch_of_one
from compress.graph.capture import capture


class Rows(nn.Module):
    """A YOLO head: anchors as an axis of their own, grids and sizes of anchors as constants, one row for each box."""

    def __init__(self, split):
        super().__init__()
        self.split = split
        self.register_buffer("grid", torch.rand(1, 1, 4, 5, 2))
        self.register_buffer("anchor", torch.rand(1, 3, 1, 1, 2))

    def forward(self, x):
        b, _, h, w = x.shape
        y = x.view(b, 3, 6, h, w).permute(0, 1, 3, 4, 2).contiguous().sigmoid()
        if self.split:
            xy, wh, rest = y.split((2, 2, 2), -1)
        else:
            xy, wh, rest = y[..., 0:2], y[..., 2:4], y[..., 4:]
        y = torch.cat(((xy * 2.0 + self.grid) * 8.0, (wh * wh) * self.anchor, rest), -1)
        return torch.cat((y.view(b, -1, 6).flatten(1), y[..., 4].flatten(1), y.select(1, 2).flatten(1)), 1)


class Shuffle(nn.Module):
    """Pixels out of channels: six axes, none of them next to its neighbour all the way."""

    def forward(self, x):
        b, c, h, w = x.shape
        y = x.view(b, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3)
        return y.reshape(b, c // 4, 2 * h, 2 * w).flatten(1)


def prepared(module, shape):
    graph = capture(module.eval(), InputSpec(shape, "planes", (0.5,) * shape[0], (0.5,) * shape[0]))
    batch_of_one(graph)
    x = torch.randn(1, *shape)
    return graph, x, graph(x)


def ranks(graph):
    return [len(node.meta[SHAPE]) for node in graph.graph.nodes if isinstance(node.meta.get(SHAPE), tuple)]


@pytest.mark.parametrize("split", [True, False])
def test_a_head_of_rank_five_has_four_axes(split):
    graph, x, wanted = prepared(Rows(split), (18, 4, 5))
    assert max(ranks(graph)) == 5
    fold_ranks(graph)
    assert max(ranks(graph)) == 4
    inner = [node.meta[SHAPE] for node in graph.graph.nodes if len(node.meta.get(SHAPE, ())) == 4]
    assert all(sum(size > 1 for size in shape) <= 3 for shape in inner)
    torch.testing.assert_close(graph(x), wanted, rtol=0, atol=0)


def test_what_cannot_be_folded_stays():
    graph, x, wanted = prepared(Shuffle(), (16, 4, 5))
    before = [(node.target, node.args) for node in graph.graph.nodes]
    fold_ranks(graph)
    assert [(node.target, node.args) for node in graph.graph.nodes] == before
    torch.testing.assert_close(graph(x), wanted, rtol=0, atol=0)


class Reduced(nn.Module):
    """An operator along axes that the pass does not know: those stay alone."""

    def forward(self, x):
        b, c, h, w = x.shape
        return x.view(b, 3, c // 3, h, w).transpose(1, 2).amax(2).flatten(1)


def test_an_operator_that_is_not_known_keeps_its_axes():
    graph, x, wanted = prepared(Reduced(), (18, 4, 5))
    fold_ranks(graph)
    torch.testing.assert_close(graph(x), wanted, rtol=0, atol=0)


def test_sizes_are_numbers_and_views_reshapes():
    graph, x, wanted = prepared(Rows(split=False), (18, 4, 5))
    calls = [node for node in graph.graph.nodes if node.op == "call_function"]
    assert not [node for node in calls if "sym_size" in str(node.target) or "view" in str(node.target)]
    assert all(isinstance(size, int) for node in calls if "reshape" in str(node.target) for size in node.args[1])
    torch.testing.assert_close(graph(x), wanted, rtol=0, atol=0)
