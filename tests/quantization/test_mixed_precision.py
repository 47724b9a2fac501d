"""Mixed precision: the search on losses that are known, and a planted bad layer in a real graph."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compress.config.schema import load_target
from compress.core.artifact import InputSpec
from compress.core.roofline import Roofline
from compress.quantization.mixed_precision import ExtraMilliseconds, choose_float_layers
from compress.quantization.observers import load_observer
from compress.quantization.placement import Recipe
from compress.quantization.policy import load_policy
from compress.quantization.ptq import calibrate, float_graph, prepare
from compress.quantization.sensitivity import LayerSensitivity, measure_sensitivity
from compress.quantization.simulation import switched
from compress.quantization.tensor_quantizer import Mode


def layer(name, sqnr_db, weight_bytes=1000, macs=1000):
    return LayerSensitivity(name, sqnr_db, 0.0, weight_bytes, macs)


def additive(losses):
    return lambda kept: sum(loss for name, loss in losses.items() if name not in kept)


ROWS = (layer("a", 10), layer("b", 20), layer("c", 30), layer("d", 40))
LOSSES = {"a": 8.0, "b": 4.0, "c": 2.0, "d": 1.0}


@pytest.mark.parametrize(
    ("allowed", "kept"), [(15, ""), (14.9, "a"), (7, "a"), (3.5, "ab"), (1.0, "abc"), (0.0, "abcd")]
)
def test_fewest_layers_that_meet_the_budget(allowed, kept):
    choice = choose_float_layers(ROWS, additive(LOSSES), allowed_loss=allowed)
    assert choice.keep_float == frozenset(kept)
    assert choice.meets_budget
    assert choice.loss <= allowed
    assert choice.extra_bytes == 750 * len(kept)


def test_a_cheap_layer_that_ranked_first_but_was_not_needed_is_dropped():
    rows = (layer("tiny", 25, weight_bytes=1), layer("bad", 5, weight_bytes=10_000))
    choice = choose_float_layers(rows, additive({"tiny": 0.1, "bad": 9.0}), allowed_loss=0.5)
    assert choice.keep_float == {"bad"}


def test_cost_decides_among_equally_noisy_layers():
    rows = (layer("heavy", 10, weight_bytes=10, macs=9000), layer("light", 10, weight_bytes=9000, macs=10))
    losses = additive({"heavy": 1.0, "light": 1.0})
    assert choose_float_layers(rows, losses, allowed_loss=1.0).keep_float == {"heavy"}
    slow = ExtraMilliseconds(Roofline(1e6, 1e9), Roofline(4e6, 1e9))
    assert choose_float_layers(rows, losses, allowed_loss=1.0, cost=slow).keep_float == {"light"}


def test_extra_milliseconds_are_arithmetic_and_weights():
    cost = ExtraMilliseconds.on(load_target("raspberry_pi_4", []))
    row = layer("conv", 10, weight_bytes=4_000_000, macs=57_600_000)
    # 2 x 57.6 M operations at 57.6 G/s against 115.2 G/s, and 3 MB more at the board's bandwidth
    assert cost(row) == pytest.approx(2.0 - 1.0 + 3e9 / cost.floats.bandwidth)


def test_an_impossible_budget_gives_the_best_set_and_says_so():
    choice = choose_float_layers(ROWS, lambda kept: 5.0 - len(kept), allowed_loss=0.5)
    assert not choice.meets_budget
    assert choice.keep_float == frozenset("abcd")
    assert choice.loss == 1.0


def test_no_layers_is_no_choice():
    choice = choose_float_layers((), lambda kept: 1.0, allowed_loss=0.5)
    assert (choice.keep_float, choice.meets_budget, choice.evaluations) == (frozenset(), False, 1)


def test_evaluations_grow_with_the_logarithm():
    rows = [layer(f"l{place:03}", place) for place in range(200)]
    losses = additive({row.name: 1.0 for row in rows[:1]})
    assert choose_float_layers(rows, losses, allowed_loss=0.0).evaluations == 2
    nothing = choose_float_layers(rows, lambda kept: 1.0, allowed_loss=0.5)
    assert nothing.evaluations <= 10


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 50), st.integers(0, 30)), max_size=9), st.integers(0, 100))
def test_no_layer_of_the_choice_is_unnecessary(layers, allowed):
    rows = [layer(str(place), sqnr, size) for place, (sqnr, size, _) in enumerate(layers)]
    evaluate = additive({str(place): float(loss) for place, (_, _, loss) in enumerate(layers)})
    choice = choose_float_layers(rows, evaluate, allowed_loss=allowed)
    assert choice.meets_budget  # with all in float the loss is zero
    assert all(evaluate(choice.keep_float - {name}) > allowed for name in choice.keep_float)


class Planted(nn.Module):
    """`bad` has one output channel a thousand times larger, which the next layer does not read."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.bad = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 8, 3, padding=1)
        with torch.no_grad():
            self.bad.weight[0] *= 1000
            self.bad.bias[0] = -1e6  # so that the relu leaves nothing of it: the weight is what is bad
            self.last.weight[:, 0] = 0

    def forward(self, x):
        return self.last(self.bad(self.first(x).relu()).relu()).mean((2, 3))


def test_only_the_planted_layer_is_kept_in_float():
    torch.manual_seed(3)
    images = torch.randn(24, 3, 8, 8)
    graph = float_graph(Planted().eval(), InputSpec((3, 8, 8)))
    recipe = Recipe(load_policy("onnxruntime"), load_observer("min_max"), per_channel=False)

    def noise_share(kept):
        prepared = prepare(copy.deepcopy(graph), replace(recipe, keep_float=frozenset(kept)))
        calibrate(prepared, images.split(8))
        with switched(prepared, Mode.SIMULATE), torch.no_grad():
            return float((prepared(images) - graph(images)).square().sum() / graph(images).square().sum())

    prepared = prepare(copy.deepcopy(graph), recipe)
    calibrate(prepared, images.split(8))
    rows = measure_sensitivity(prepared, graph, lambda: images.split(8))
    assert min(rows, key=lambda row: row.sqnr_db).name == "bad"
    choice = choose_float_layers(rows, noise_share, allowed_loss=0.01)
    assert choice.keep_float == {"bad"}
    assert choice.meets_budget
    assert choice.extra_bytes == 3 * 8 * 8 * 9
    assert noise_share(frozenset()) > 0.05
