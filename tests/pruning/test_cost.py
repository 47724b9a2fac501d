"""Cost functions: MACs as counted, the roofline by hand, measured times in proportion."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.config.schema import load_target
from compress.core.artifact import Artifact, Format, Precision
from compress.core.errors import ConfigError, Refusal
from compress.core.roofline import Roofline
from compress.formats import runtimes
from compress.formats.torch.macs import torch_macs
from compress.pruning.attention import separate_heads
from compress.pruning.cost import Estimated, Measured, macs, parameters, read_layer_times, total
from compress.pruning.shapes import Cut, LayerShape, layer_shapes
from compress.stages.prune.structured import Structured

sys.path.insert(0, str(Path(__file__).parent))
from networks import NAMES, RGB, build

CONV = LayerShape("conv", 16, 32, kernel=9, read=100, written=100)


@pytest.mark.parametrize("name", NAMES)
def test_the_shapes_add_up_to_what_pytorch_counts(name):
    module = build(name)
    separate_heads(module, RGB)
    run = runtimes.load(Artifact(Format.TORCH, module, Precision.FP32, RGB), threads=1)
    counted = torch_macs(run, np.zeros((1, *RGB.shape), np.float32))
    assert total(macs, layer_shapes(module, RGB).values()) == pytest.approx(counted, rel=0.02)


def test_the_counter_sees_pytorch_s_fused_attention():
    module = build("transformer")
    fused = torch_macs(runtimes.load(Artifact(Format.TORCH, module, Precision.FP32, RGB), threads=1), image())
    separate_heads(module, RGB)
    apart = torch_macs(runtimes.load(Artifact(Format.TORCH, module, Precision.FP32, RGB), threads=1), image())
    assert fused == pytest.approx(apart, rel=0.02)
    assert torch.backends.mha.get_fastpath_enabled()


def image():
    return np.zeros((1, *RGB.shape), np.float32)


def test_a_shape_by_hand():
    assert CONV.macs == 100 * 32 * 16 * 9
    assert CONV.parameters == 32 * 16 * 9
    assert CONV.elements == 100 * (16 + 32)
    assert Cut(inputs=8, outputs=2).times(2).applied(CONV).macs == 0
    depthwise = LayerShape("dw", 16, 16, groups=16, kernel=9, read=100, written=100)
    assert depthwise.macs == 100 * 16 * 9
    assert Cut(4, 4, 4).applied(depthwise).macs == 100 * 12 * 9


def test_the_roofline_takes_the_slower_of_arithmetic_and_memory():
    arithmetic = Estimated(Roofline(flops=1e9, bandwidth=1e15), element_bytes=4)
    memory = Estimated(Roofline(flops=1e15, bandwidth=1e9), element_bytes=4)
    assert arithmetic(CONV) == pytest.approx(1000 * 2 * CONV.macs / 1e9)
    assert memory(CONV) == pytest.approx(1000 * 4 * (CONV.parameters + CONV.elements) / 1e9)


def test_channels_that_do_not_fill_a_vector_cost_as_much_as_a_full_one():
    estimate = Estimated(Roofline(flops=1e9, bandwidth=1e15), element_bytes=4, lanes=8)
    assert estimate(Cut(outputs=1).applied(CONV)) == pytest.approx(estimate(CONV))
    assert estimate(Cut(outputs=8).applied(CONV)) == pytest.approx(0.75 * estimate(CONV))


def test_the_target_s_facts_make_the_estimate():
    estimate = Estimated.of(load_target("raspberry_pi_4", []), Precision.INT8, 8)
    assert (estimate.roof, estimate.element_bytes) == (Roofline(115.2e9, 12.8e9), 1)
    with pytest.raises(
        ConfigError, match=r"peak int8 arithmetic of NVIDIA Jetson Nano is not known \(known: fp16, fp32"
    ):
        Estimated.of(load_target("jetson_nano", []), Precision.INT8, 8)
    with pytest.raises(Refusal, match=r"stage 'cut': the peak int8 arithmetic .* fix: stage\.cut\.of=macs"):
        Structured(of="latency", precision=Precision.INT8).requires(
            load_target("jetson_nano", []), Precision.FP32, "cut"
        )


def test_measured_times_scale_as_the_estimate_does(tmp_path):
    path = tmp_path / "times.json"
    path.write_text(json.dumps({"conv": 3.0, "pool": 1.0}))
    times = read_layer_times(path, ["conv"])
    cost = Measured(times, {"conv": CONV}, macs)
    assert cost(CONV) == 3.0
    assert cost(Cut(outputs=16).applied(CONV)) == 1.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[1]", "is not an object of milliseconds"),
        ('{"conv": "fast"}', "is not an object of milliseconds"),
        ('{"conv": -1}', "is not an object of milliseconds"),
        ('{"other": 1}', "names no layer of this model: it has other"),
    ],
)
def test_layer_times_that_cannot_be_used(tmp_path, text, message):
    path = tmp_path / "times.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_layer_times(path, ["conv"])
    with pytest.raises(ConfigError, match="cannot be read"):
        read_layer_times(tmp_path / "none.json", ["conv"])


def test_parameters_leave_out_what_is_not_stored():
    assert parameters(LayerShape("scores", 64, 16, stored=False)) == 0
