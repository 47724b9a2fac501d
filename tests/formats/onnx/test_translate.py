"""When operators are translated as they are, and when that is left to the exporter."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from compress.core.artifact import InputSpec
from compress.formats.onnx import translate
from compress.formats.onnx.program import program_of
from compress.formats.onnx.translate import translate_whole
from compress.graph.capture import capture

SPEC = InputSpec((3, 8, 8))


class Calls(nn.Module):
    """A network of one function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def translated(function):
    return translate_whole(program_of(capture(Calls(function).eval(), SPEC), SPEC), 20)


def test_operators_of_one_float_type_are_translated():
    model = translated(lambda x: torch.relu(x * 2) + 1)
    assert [node.op_type for node in model.graph if node.op_type != "Constant"] == ["Mul", "Relu", "Add"]
    assert model.opset_imports == {"": 20}


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + torch.arange(8),  # float and integer: one of them must be promoted
        lambda x: x * (x > 0),
        lambda x: torch.nn.functional.softshrink(x),  # no operator of ONNX's
    ],
    ids=["integers", "booleans", "softshrink"],
)
def test_what_needs_more_is_left_to_the_exporter(function):
    assert translated(function) is None


def test_another_pytorch_that_keeps_the_step_elsewhere_is_no_error(monkeypatch):
    translate._translator.cache_clear()
    monkeypatch.setitem(sys.modules, "torch.onnx._internal.exporter._core", None)
    try:
        assert translated(torch.relu) is None
    finally:
        translate._translator.cache_clear()
