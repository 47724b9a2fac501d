"""Weights that are no numbers are named before any work starts."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from compress.errors import ModelError
from compress.models.sound import refuse_unsound, refuse_unsound_graph


def network() -> nn.Sequential:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    net.register_buffer("mask", torch.full((2, 2), float("-inf")))
    return net


def fill(name: str, value: float) -> nn.Module:
    net = network()
    with torch.no_grad():
        dict(net.state_dict())[name].view(-1)[1] = value
    return net


def test_a_sound_network_passes_infinite_masks_and_all():
    refuse_unsound(network())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("0.weight", float("nan"), r"0.weight holds 1 values that are not numbers \(NaN\), of 108"),
        ("1.running_mean", float("nan"), r"1.running_mean holds 1 values that are not numbers"),
        ("mask", float("nan"), "mask holds 1 values that are not numbers"),
        ("0.bias", float("inf"), "0.bias holds 1 infinite values, of 4"),
        ("1.running_var", -0.5, "1.running_var holds 1 negative variances, of 4"),
        ("1.running_var", float("inf"), "1.running_var holds 1 infinite values, of 4"),
    ],
)
def test_unsound_tensors_are_named(name, value, message):
    with pytest.raises(ModelError, match=message):
        refuse_unsound(fill(name, value))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_looked_at_too(dtype):
    with pytest.raises(ModelError, match=r"0\.weight holds 1 values"):
        refuse_unsound(fill("0.weight", float("nan")).to(dtype))


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (1, np.nan, r"w holds 1 values that are not numbers"),
        (1, np.inf, "w holds 1 infinite values, of 4"),
        (6, -1.0, "variance holds 1 negative variances, of 2"),
        (5, np.nan, "mean holds 1 values that are not numbers"),
        (7, np.inf, None),
    ],
)
def test_initializers_of_a_graph(position, value, message):
    names = ["x", "w", "y", "scale", "bias", "mean", "variance", "limit"]
    stored = {name: np.ones(4 if name == "w" else 2, np.float32) for name in names}
    stored[names[position]][0] = value
    shape = {"w": (2, 2, 1, 1)}
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Conv", ["x", "w"], ["y"]),
            onnx.helper.make_node("BatchNormalization", ["y", *names[3:7]], ["z"]),
            onnx.helper.make_node("Min", ["z", "limit"], ["out"]),
        ],
        "g",
        [],
        [],
        [onnx.numpy_helper.from_array(stored[n].reshape(shape.get(n, -1)), n) for n in names if n not in "xy"],
    )
    if message is None:
        refuse_unsound_graph(graph)
        return
    with pytest.raises(ModelError, match=message):
        refuse_unsound_graph(graph)
