"""Sensitivity: a planted bad layer stands out, and what is not quantized costs nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from compress.core.artifact import InputSpec
from compress.core.errors import StageError
from compress.quantization.observers import load_observer
from compress.quantization.placement import Recipe
from compress.quantization.policy import load_policy
from compress.quantization.ptq import calibrate, float_graph, prepare, quantizers
from compress.quantization.sensitivity import layer_groups, measure_sensitivity
from compress.quantization.simulation import switched
from compress.quantization.tensor_quantizer import Mode


class Planted(nn.Module):
    """`bad` has one output channel a thousand times larger, which the next layer does not read."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.bad = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.head = nn.Linear(8, 4)
        with torch.no_grad():
            self.bad.weight[0] *= 1000
            self.bad.bias[0] = -1e6  # so that the relu leaves nothing of it: the weight is what is bad
            self.last.weight[:, 0] = 0
            self.last.bias.zero_()
            self.head.bias.zero_()  # no constant to hide the noise behind

    def forward(self, x):
        x = self.last(self.bad(self.first(x).relu()).relu()).relu()
        return self.head(x.mean((2, 3)))


SPEC = InputSpec((3, 8, 8))
NAMES = ["first", "bad", "last", "head"]


@pytest.fixture(scope="module")
def planted():
    torch.manual_seed(3)
    images = torch.randn(24, 3, 8, 8)
    graph = float_graph(Planted().eval(), SPEC)
    recipe = Recipe(load_policy("onnxruntime"), load_observer("min_max"), per_channel=False)
    prepared = prepare(copy.deepcopy(graph), recipe)
    calibrate(prepared, images.split(8))
    return prepared, graph, lambda: images.split(8)


def test_planted_layer_is_the_most_sensitive(planted):
    rows = measure_sensitivity(*planted, max_batches=3)
    assert [row.name for row in rows] == NAMES
    worst, second = sorted(rows, key=lambda row: row.sqnr_db)[:2]
    assert worst.name == "bad"
    assert worst.sqnr_db < 15 < 25 < second.sqnr_db
    (weight,) = measure_sensitivity(*planted, groups={"bad": ["bad.weight"]})
    assert weight.sqnr_db == pytest.approx(worst.sqnr_db, abs=1.0)  # its activations are not to blame


def test_costs_are_those_of_the_layer(planted):
    rows = {row.name: row for row in measure_sensitivity(*planted, max_batches=1)}
    assert rows["first"].weight_bytes == 4 * 8 * 3 * 9
    assert rows["first"].macs == 8 * 8 * 8 * 3 * 9
    assert rows["last"].macs == 8 * 4 * 4 * 8 * 9
    assert (rows["head"].weight_bytes, rows["head"].macs) == (4 * 32, 32)


def test_partial_recomputation_equals_a_whole_run(planted):
    prepared, graph, batches = planted
    rows = measure_sensitivity(prepared, graph, batches, max_batches=3)
    groups = layer_groups(prepared)
    assert groups["bad"] >= {"bad.weight"}
    assert len(groups["bad"]) == 3
    for row in rows:
        with switched(prepared, Mode.SIMULATE, only=groups[row.name]), torch.no_grad():
            pairs = [(graph(batch), prepared(batch)) for batch in batches()]
        expected, found = (torch.cat(parts).double() for parts in zip(*pairs, strict=True))
        noise = (found - expected).square().sum()
        assert row.sqnr_db == pytest.approx(float(10 * torch.log10(expected.square().sum() / noise)), abs=1e-3)
        assert row.agreement_loss == pytest.approx(float((expected.argmax(1) != found.argmax(1)).double().mean()))


def test_nothing_quantized_costs_nothing_and_modes_come_back(planted):
    prepared = planted[0]
    (row,) = measure_sensitivity(*planted, groups={"nothing": []})
    assert row.sqnr_db > 100
    assert row.agreement_loss == 0
    assert (row.weight_bytes, row.macs) == (0, 0)
    assert {quantizer.mode for quantizer in quantizers(prepared).values()} == {Mode.OBSERVE}


def test_unknown_tensor_and_no_batches_are_errors(planted):
    with pytest.raises(StageError, match=r"no tensor 'bad.wait' is quantized.*did you mean 'bad.weight'"):
        measure_sensitivity(*planted, groups={"bad": ["bad.wait"]})
    with pytest.raises(StageError, match="no samples to compare"):
        measure_sensitivity(*planted[:2], lambda: iter(()))
