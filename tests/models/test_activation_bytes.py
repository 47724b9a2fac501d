"""How much one image takes on its way through a network, and how many images are taken at a time."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from compress.core.artifact import BATCH_BYTES, Artifact, Format, InputSpec, Precision
from compress.graph.activation_bytes import widest_node, widest_operator

SPEC = InputSpec((3, 16, 16))
IMAGE, MAP = 3 * 16 * 16 * 4, 8 * 16 * 16 * 4


def network():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


def test_the_widest_operator_of_a_module_counts_and_weights_do_not():
    assert widest_operator(network(), SPEC) == 2 * MAP
    wide = nn.Sequential(nn.Flatten(), nn.Linear(768, 4096)).eval()
    assert widest_operator(wide, SPEC) == IMAGE + 4 * 4096


def test_what_cannot_be_watched_limits_nothing():
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("not like this")

    assert widest_operator(Broken(), SPEC) is None


@pytest.mark.parametrize("batch", [1, "N"])
def test_a_file_counts_the_same_whatever_its_batch(batch):
    weight = numpy_helper.from_array(np.zeros((8, 3, 3, 3), np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["c"], ["s"]),
        helper.make_node("Mul", ["c", "s"], ["y"]),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *shape])
             for name, shape in (("x", (3, 16, 16)), ("y", (8, 16, 16)))]  # fmt: skip
    model = helper.make_model(helper.make_graph(nodes, "g", ports[:1], ports[1:], [weight]))
    onnx.checker.check_model(model)
    assert widest_node(model) == 3 * MAP


@pytest.mark.parametrize(
    ("bytes_each", "most", "taken"),
    [(None, 64, 64), (BATCH_BYTES // 8, 64, 8), (BATCH_BYTES // 8, 4, 4), (3 * BATCH_BYTES, 64, 1)],
)
def test_as_many_images_at_a_time_as_fit(bytes_each, most, taken):
    artifact = Artifact(Format.TORCH, nn.Identity(), Precision.FP32, SPEC, activation_bytes=bytes_each)
    assert artifact.fitting(most) == taken
    assert artifact.after("stage", torch.nn.Identity()).fitting(most) == taken
