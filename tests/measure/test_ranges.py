"""Ranges of INT8 graphs and the values that meet them, held against the graph computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.stage import Batch
from compress.measure.ranges import measure_ranges
from compress.quantization.observers.min_max import MinMax
from compress.quantization.placement import Recipe
from compress.quantization.policy import load_policy
from compress.quantization.ptq import calibrate, convert, float_graph, prepare

SPEC = InputSpec((3, 8, 8))


class Split:
    name = "calibration"

    def __init__(self, images):
        self.images, self.read = images, 0

    def __len__(self):
        return len(self.images)

    def batches(self, size, *, order=None):
        for start in range(0, len(self), size):
            part = self.images[start : start + size]
            self.read += len(part)
            yield Batch(part, np.zeros(len(part), np.int64))


def images(count):
    return np.random.default_rng(1).standard_normal((count, *SPEC.shape), dtype=np.float32)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 5)).eval()


def quantized(calibration, policy="onnxruntime"):
    prepared = prepare(float_graph(network(), SPEC), Recipe(load_policy(policy), MinMax))
    calibrate(prepared, [torch.from_numpy(calibration)])
    return Artifact(Format.TORCH, convert(prepared), Precision.INT8, SPEC, history=("ptq",))


@pytest.fixture(scope="module")
def found():
    calibration = images(16)
    rows = measure_ranges(quantized(calibration), Split(calibration), samples=16, seconds=60)
    return {(row.kind, row.name): row for row in rows}


def test_every_weight_has_one_range_per_channel(found):
    weights = {name: row for (kind, name), row in found.items() if kind == "weight"}
    assert list(weights) == ["0.weight", "2.weight", "4.weight"]
    for name, row in weights.items():
        exact = dict(network().named_parameters())[name].detach()
        assert row.channels == len(exact)
        assert row.clipped is None
        assert row.samples == 0
        assert row.high == pytest.approx(float(exact.abs().max()), rel=0.02)
        assert row.seen_high == pytest.approx(float(exact.max()), abs=float(exact.abs().max()) / 127)
        step = exact.flatten(1).abs().amax(1) / 127
        noise = float(step.square().mean()) / 12
        assert row.sqnr_db == pytest.approx(10 * math.log10(float(exact.square().mean()) / noise), abs=0.3)


def test_activations_are_named_by_layer_and_clip_nothing_that_calibrated_them(found):
    activations = {name: row for (kind, name), row in found.items() if kind == "activation"}
    assert {"input", "0, relu", "2"} <= set(activations)
    for row in activations.values():
        assert (row.samples, row.channels, row.stage) == (16, 1, "ptq")
        assert row.clipped <= 0.001
        assert row.low <= 0 <= row.high
    calibration = images(16)
    seen = activations["input"]
    assert (seen.seen_low, seen.seen_high) == pytest.approx((calibration.min(), calibration.max()))
    relu = activations["0, relu"]
    assert relu.seen_low == 0
    assert relu.seen_high == pytest.approx(float(network()[:2](torch.from_numpy(calibration)).detach().max()), rel=0.03)


def test_histograms_count_every_value(found):
    seen = found["activation", "input"].histogram
    assert len(seen.counts) == 64
    assert sum(seen.counts) == 16 * 3 * 8 * 8
    assert seen.low + 64 * seen.width == pytest.approx(found["activation", "input"].seen_high)
    assert sum(found["weight", "0.weight"].histogram.counts) == 8 * 3 * 3 * 3


def test_values_beyond_the_range_are_counted_and_cost():
    calibration = images(16)
    artifact = quantized(calibration)
    calm = measure_ranges(artifact, Split(calibration), samples=16, seconds=60)
    loud = measure_ranges(artifact, Split(4 * calibration), samples=16, seconds=60)
    calm, loud = (next(row for row in rows if row.name == "input") for rows in (calm, loud))
    outside = np.abs(4 * calibration) > np.abs(calibration).max()
    assert loud.clipped == pytest.approx(float(outside.mean()), abs=0.06)
    assert loud.sqnr_db < calm.sqnr_db - 15
    assert (loud.low, loud.high) == (calm.low, calm.high)


def test_images_and_time_are_bounded():
    calibration = images(64)
    artifact = quantized(calibration)
    split = Split(calibration)
    rows = measure_ranges(artifact, split, samples=20, seconds=60)
    assert {row.samples for row in rows if row.kind == "activation"} == {20}
    split = Split(calibration)
    rows = measure_ranges(artifact, split, samples=64, seconds=0)
    assert {row.samples for row in rows if row.kind == "activation"} == {8}
    assert split.read == 8


def test_tensorrts_symmetric_ranges_are_read_as_well():
    calibration = images(8)
    rows = measure_ranges(quantized(calibration, "tensorrt"), Split(calibration), samples=8, seconds=60)
    activations = [row for row in rows if row.kind == "activation"]
    assert activations
    assert all(row.low == pytest.approx(-row.high * 128 / 127, rel=1e-3) for row in activations)


def test_a_module_without_a_graph_has_no_ranges():
    artifact = Artifact(Format.TORCH, network(), Precision.FP32, SPEC, history=("source",))
    assert measure_ranges(artifact, Split(images(1)), samples=1, seconds=1) == ()
