"""Clamps that a quantization does anyway are not written; the others stay."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from compress.core.artifact import InputSpec
from compress.formats.tflite.clips import drop_clips
from compress.graph.capture import call_nodes, capture

Q = torch.ops.quantized_decomposed


class Clipped(nn.Module):
    """A clamp whose reader has integers from `-zero * scale` to `(255 - zero) * scale`."""

    def __init__(self, low, high, scale, zero):
        super().__init__()
        self.numbers = low, high, scale, zero

    def forward(self, x):
        low, high, scale, zero = self.numbers
        x = torch.clamp(x.flatten(1), low, high)
        x = Q.quantize_per_tensor(x, scale, zero - 128, -128, 127, torch.int8)
        return Q.dequantize_per_tensor(x, scale, zero - 128, -128, 127, torch.int8)


@pytest.mark.parametrize(
    ("low", "high", "scale", "zero", "kept"),
    [
        (0.0, 1.0, 1 / 255, 0, False),  # the integers end where it clips
        (0.0, 1.0, 0.5 / 255, 0, False),  # or before
        (0.0, 1.0, 2 / 255, 0, True),
        (0.2, 1.0, 1 / 255, 0, True),  # zero is an integer, and below
        (None, 1.0, 2 / 255, 128, False),
        (-1.0, 1.0, 2 / 255, 64, True),
    ],
)
def test_only_what_saturates_anyway_goes(low, high, scale, zero, kept):
    graph = capture(Clipped(low, high, scale, zero), InputSpec((1, 8, 8), "gray", (0,), (1,)), dynamic_batch=False)
    dropped = copy.deepcopy(graph)
    drop_clips(dropped)
    dropped.recompile()
    assert any("clamp" in str(node.target) for node in call_nodes(dropped)) is kept
    image = torch.linspace(-3, 3, 64).reshape(1, 1, 8, 8)
    torch.testing.assert_close(dropped(image), graph(image), rtol=0, atol=0)
