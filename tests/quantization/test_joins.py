"""Grids of what is joined: measured ranges decide, whatever the order, and kernels' fixed grids pull nobody."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recipes import make_recipe, sqnr_db
from torch import nn
from torch.nn import functional

from compress.core.artifact import InputSpec
from compress.graph.capture import call_nodes
from compress.quantization.joins import narrow_parts
from compress.quantization.policy import load_policy
from compress.quantization.ptq import calibrate, convert, float_graph, prepare, quantizers

SPEC = InputSpec((3, 8, 8))
IMAGES = torch.randn(32, *SPEC.shape, generator=torch.Generator().manual_seed(1))
FIXED = (1 / 256, -128)  # a sigmoid's


class Parts(nn.Module):
    """Convolutions whose outputs are of the order of `sizes`, and what `join` makes of them and of the image."""

    def __init__(self, join, *sizes):
        super().__init__()
        torch.manual_seed(0)
        self.parts, self.join = nn.ModuleList(nn.Conv2d(3, 4, 1) for _ in sizes), join
        for part, size in zip(self.parts, sizes, strict=True):
            nn.init.normal_(part.weight, 0, size)

    def forward(self, x):
        return self.join(x, *(self.parts))


def prepared_of(module, policy="litert"):
    prepared = prepare(float_graph(module.eval(), SPEC, load_policy(policy)), make_recipe(policy))
    calibrate(prepared, IMAGES.split(16))
    return prepared


def grids(prepared):
    numbers = {name: quantizer.calculate_qparams() for name, quantizer in quantizers(prepared).items()}
    return {name: (float(scale), int(zero)) for name, (scale, zero) in numbers.items() if not scale.ndim}


def sqnr(module, policy="litert"):
    graph = convert(prepared_of(module, policy))
    with torch.no_grad():
        return sqnr_db(module(IMAGES), graph(IMAGES))


JOINS = {
    "scores, boxes": lambda x, a, b: torch.cat([a(x).sigmoid(), b(x)], 1),
    "boxes, scores": lambda x, a, b: torch.cat([b(x), a(x).sigmoid()], 1),
    "softmax": lambda x, a, b: torch.cat([a(x).softmax(1), b(x)], 1),
    "tanh": lambda x, a, b: torch.cat([a(x).tanh(), b(x)], 1),
    "three scales": lambda x, a, b: torch.cat([a(x).tanh(), a(x).sigmoid(), b(x)], 1),
    "cat of cats": lambda x, a, b: torch.cat([torch.cat([a(x).sigmoid(), b(x)], 1), x], 1),
    "image": lambda x, a, b: torch.cat([a(x).sigmoid(), x, b(x)], 1),
    "stack": lambda x, a, b: torch.stack([a(x).sigmoid(), b(x)], 1).flatten(1, 2),
    "stack at the end": lambda x, a, b: torch.stack([a(x).sigmoid(), b(x)], -1).flatten(3, 4),
    "hstack": lambda x, a, b: torch.hstack([a(x).sigmoid(), b(x)]),
    "dstack": lambda x, a, b: torch.dstack([a(x).sigmoid(), b(x)]),
    "chunks": lambda x, a, b: torch.cat([a(x).sigmoid().chunk(2, 1)[0], b(x).chunk(2, 1)[1]], 1),
    "slices": lambda x, a, b: torch.cat([a(x).sigmoid()[:, :2], b(x)[:, 1:]], 1),
    "pool": lambda x, a, b: torch.cat([functional.max_pool2d(a(x).sigmoid(), 3, 1, 1), b(x)], 1),
    "resize": lambda x, a, b: torch.cat(
        [functional.interpolate(a(x).sigmoid()[:, :, :4, :4], scale_factor=2), b(x)], 1
    ),
    "padded scores": lambda x, a, b: torch.cat(
        [functional.pad(a(x).sigmoid(), (1, 1)), functional.pad(b(x), (1, 1))], 1
    ),
    "pixels": lambda x, a, b: torch.cat([b(x) * 64, a(x).sigmoid() * 64], 1),
}


@pytest.mark.parametrize("policy", ["litert", "edgetpu"])
@pytest.mark.parametrize("join", JOINS)
def test_what_is_joined_keeps_its_range(join, policy):
    assert sqnr(Parts(JOINS[join], 1.0, 4.0), policy) > 28


def test_a_fixed_grid_pulls_nobody_and_is_requantized():
    found = grids(prepared_of(Parts(JOINS["scores, boxes"], 1.0, 4.0)))
    assert found["sigmoid"] == FIXED
    assert found["cat"] == found["parts.1"] != FIXED  # only the join reads the boxes: one rounding in place of two


def test_nothing_but_fixed_grids_stay_as_they_are():
    twice = Parts(lambda x, a, b: torch.cat([torch.cat([a(x).sigmoid(), b(x).sigmoid()], 1), a(x).softmax(1)], 1), 1, 4)
    found = grids(prepared_of(twice))
    assert found["cat"] == found["cat_1"] == FIXED


def test_a_tensor_that_others_read_keeps_its_finer_grid():
    def join(x, a, b):
        small = a(x)
        return torch.cat([torch.cat([small, b(x)], 1).mean((2, 3)), (small * small).mean((2, 3))], 1)

    found = grids(prepared_of(Parts(join, 0.1, 8.0)))
    assert found["cat"] == found["parts.1"]
    assert found["parts.0"][0] < found["cat"][0] / 4
    similar = grids(prepared_of(Parts(join, 4.0, 0.1)))  # the join's range is that of the tensor that others read
    assert similar["parts.0"] == similar["parts.1"] == similar["cat"]


def test_poolings_of_one_tensor_are_joined_on_its_grid():
    """Spatial pyramids (SPPF): the maximum of a tensor has its range, so nothing is requantized."""

    def join(x, a):
        y = [a(x)]
        for _ in range(3):
            y.append(functional.max_pool2d(y[-1], 5, 1, 2))
        return torch.cat(y, 1)

    found = grids(prepared_of(Parts(join, 1.0)))
    assert found["parts.0"] == found["cat"]


def test_growing_concatenations_share_where_their_ranges_agree():
    """DenseNets join the same features again and again."""

    def join(x, a, b, c):
        first = a(x)
        second = torch.cat([first, b(first[:, :3])], 1)
        return torch.cat([second, c(second[:, 1:4]), first], 1)

    found = grids(prepared_of(Parts(join, 1.0, 0.1, 0.1)))
    assert len({found[name] for name in ("parts.0", "parts.1", "parts.2", "cat", "cat_1")}) == 1


@settings(max_examples=6, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([0.05, 0.5, 1.0, 4.0, 9.0]), min_size=3, max_size=3),
    gates=st.lists(st.sampled_from(["none", "sigmoid", "tanh", "read twice"]), min_size=3, max_size=3),
    joined=st.permutations(range(3)),
    computed=st.permutations(range(3)),
)
def test_the_order_of_nodes_decides_nothing(sizes, gates, joined, computed):
    def in_order(joined, computed):
        def join(x, *parts):
            ready, again = {}, []
            for index in computed:
                y = parts[index](x)
                again += [y.mean((2, 3))] if gates[index] == "read twice" else []
                ready[index] = getattr(y, gates[index], lambda y=y: y)()
            return torch.cat([ready[index] for index in joined], 1).mean((2, 3)), again

        return Parts(lambda x, *parts: join(x, *parts)[0] + sum(a.mean() for a in join(x, *parts)[1]), *sizes)

    def by_part(order):
        prepared = prepared_of(in_order(*order))
        return {name: grid for name, grid in grids(prepared).items() if name.startswith("parts.") or name == "cat"}

    assert by_part((joined, computed)) == by_part((range(3), range(3)))


def test_what_is_lost_beside_a_far_larger_part_is_named():
    prepared = prepared_of(Parts(lambda x, a, b: torch.cat([a(x).sigmoid(), b(x) * 100], 1), 1.0, 4.0))
    (sentence,) = narrow_parts(prepared)
    assert sentence == "cat keeps 1 integers for sigmoid: another part is far larger"
    assert narrow_parts(prepared_of(Parts(JOINS["scores, boxes"], 1.0, 1.0))) == []


PADDINGS = {
    "above": lambda x, a: functional.pad(a(x).sigmoid(), (1, 1, 1, 1), value=3.0),
    "below": lambda x, a: functional.pad(a(x), (1, 1, 1, 1), value=-30.0),
    "before a maximum": lambda x, a: functional.max_pool2d(functional.pad(a(x).relu(), (1, 1, 1, 1), value=9.0), 3, 2),
    "windows of padding": lambda x, a: functional.max_pool2d(functional.pad(a(x), (4, 4), value=-30.0), 2),
    "never seen": lambda x, a: functional.max_pool2d(functional.pad(a(x), (1, 1, 1, 1), value=-1e9), 3, 2),
    "minus infinity": lambda x, a: functional.max_pool2d(functional.pad(a(x), (1, 1), value=float("-inf")), 3, 2),
    "reflected": lambda x, a: functional.pad(a(x), (1, 1, 1, 1), mode="reflect"),
}


@pytest.mark.parametrize("padding", PADDINGS)
def test_the_number_that_is_padded_with_is_in_the_range(padding):
    assert sqnr(Parts(PADDINGS[padding], 1.0)) > 28


NUMBERS = {
    "times": lambda x, a: a(x).sigmoid() * 640,
    "plus": lambda x, a: a(x) + 3,
    "minus": lambda x, a: a(x) - 3.5,
    "from": lambda x, a: 1 - a(x).sigmoid(),
    "negative": lambda x, a: a(x) * -0.01,
}


@pytest.mark.parametrize("how", NUMBERS)
def test_numbers_in_sums_and_products_have_integers(how):
    module = Parts(NUMBERS[how], 1.0)
    graph = convert(prepared_of(module))
    assert sqnr(module) > 35
    (node,) = [node for node in call_nodes(graph) if str(node.target).startswith(("aten.add", "aten.mul", "aten.sub"))]
    assert len(node.all_input_nodes) == 2
    assert all("dequantize" in str(source.target) for source in node.all_input_nodes)
    (number,) = [value for name, value in graph.named_buffers() if "number" in name]
    assert number.dtype is torch.int8


def test_a_number_with_a_factor_stays():
    """`torch.add(x, 3, alpha=2)` is no product of kernels."""
    module = Parts(lambda x, a: torch.add(a(x), 3, alpha=2), 1.0)
    assert sqnr(module) > 40
