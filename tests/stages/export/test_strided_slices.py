"""Shortcuts of option A (He et al. 2015): every other pixel, taken by a 1x1 pooling, which the Edge TPU maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from doubles import ArraySplit, stage_context
from torch import nn
from torch.nn.functional import pad, relu

from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.formats import runtimes
from compress.formats.edgetpu.preflight import preflight
from compress.formats.tflite.strides import pool_strides
from compress.graph.capture import call_nodes, capture
from compress.stages.export.to_tflite import ToTflite
from compress.stages.quantize.ptq_static import PtqStatic

pytest.importorskip("litert_torch", reason="needs the extra tflite")

from compress.formats.tflite.network import read_network

SPEC = InputSpec((3, 9, 12))


class OptionA(nn.Module):
    """One residual block whose shortcut takes every other pixel and pads channels."""

    def __init__(self):
        super().__init__()
        self.first, self.main = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = relu(self.first(x))
        short = pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        return self.head(relu(self.main(x) + short).mean((2, 3)))


def test_every_other_pixel_is_one_pooling(tmp_path):
    split = ArraySplit(np.random.default_rng(0).standard_normal((16, *SPEC.shape)).astype(np.float32))

    class Splits:
        classes = ()
        calibration = finetune = validation = evaluation = split

    context = stage_context("export", target="coral", splits=Splits(), folder=tmp_path)
    torch.manual_seed(0)
    graph = PtqStatic().run(Artifact(Format.TORCH, OptionA().eval(), Precision.FP32, SPEC), context)
    file = ToTflite().run(graph, context)
    network = read_network(file.path)
    kinds = [operator.kind for operator in network.operators]
    assert not [kind for kind in kinds if "SLICE" in kind or kind == "TRANSPOSE"]
    (pool,) = [operator for operator in network.operators if operator.kind == "MAX_POOL_2D"]
    sizes = ("filterHeight", "filterWidth", "strideH", "strideW")
    assert [pool.options[name] for name in sizes] == [1, 1, 2, 2]
    assert pool.inputs[0].quantization == pool.outputs[0].quantization
    result = preflight(network)
    assert (result.mapped, result.unmapped) == (result.operators, ())
    step = network.outputs[0].quantization.scale[0]
    given, wanted = (runtimes.load(artifact, threads=1)(split.images) for artifact in (file, graph))
    assert np.abs(given - wanted).max() <= 1.01 * step


@pytest.mark.parametrize(
    ("take", "poolings"),
    [
        (lambda x: x[:, :, ::2, ::2], 1),
        (lambda x: x[..., ::2][:, :, ::3], 1),
        (lambda x: x[:, :, 1:8:3, -7:-1:2], 2),
        (lambda x: torch.relu(x[:, :, ::2])[..., 1::2], 2),
        (lambda x: x[:, :, 2:, :5], 0),
        (lambda x: x[:, ::2], 0),
        (lambda x: x.flatten(1)[:, ::2], 0),
    ],
    ids=["both axes", "one after the other", "with ends", "apart", "without a step", "channels", "a vector"],
)
def test_the_pixels_are_the_slices_own(take, poolings):
    """As numbers, on an odd and an even side; nothing else is touched."""

    class Slices(nn.Module):
        def forward(self, x):
            return take(x)

    image = torch.randn(1, 4, 9, 12)
    captured = capture(Slices(), InputSpec((4, 9, 12), "planes", (0.0,) * 4, (1.0,) * 4), dynamic_batch=False)
    (wanted,) = captured(image)
    assert pool_strides(captured) == poolings
    captured.recompile()
    (given,) = captured(image)
    assert torch.equal(given, wanted)
    assert [node.target for node in call_nodes(captured)].count(torch.ops.aten.max_pool2d.default) == poolings
