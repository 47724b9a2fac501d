"""What is private to PyTorch is used with the release that it was tried with; the public way gives the same."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

from compress.core.artifact import InputSpec
from compress.formats.onnx import translate
from compress.formats.onnx.capture import capture
from compress.formats.onnx.interface import set_interface
from compress.formats.onnx.program import program_of
from compress.graph import capture as graph
from compress.support import torch_internals
from compress.support.torch_internals import OpOverload, OpOverloadPacket, dtype_of, known, onnx_translator, tensors_in

SPEC = InputSpec((3, 8, 8))
OTHERS = ["2.13.1", "2.15.0.dev20260101+cpu", "3.0.0"]


@pytest.fixture
def another_release(monkeypatch):
    translate._translator.cache_clear()
    monkeypatch.setattr(torch, "__version__", "2.15.0")
    yield
    translate._translator.cache_clear()


@pytest.mark.parametrize("version", OTHERS)
def test_other_releases_are_told_apart(monkeypatch, version):
    assert known()
    monkeypatch.setattr(torch, "__version__", version)
    assert not known()
    assert onnx_translator(20, {}) is None


def test_the_public_way_gives_what_the_private_one_does(request):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    captured = graph.capture(module, SPEC)
    assert program_of(captured, SPEC) is not None
    private = capture(captured, SPEC, dynamic_batch=False)
    request.getfixturevalue("another_release")
    assert program_of(captured, SPEC) is None
    public = capture(captured, SPEC, dynamic_batch=False)
    images = np.random.default_rng(0).standard_normal((1, 3, 8, 8), dtype=np.float32)
    first, second = (outputs(model, images) for model in (private, public))
    np.testing.assert_array_equal(first, second)
    with torch.no_grad():
        np.testing.assert_allclose(first, module(torch.from_numpy(images)).numpy(), rtol=1e-4, atol=1e-5)


def outputs(model, images):
    set_interface(model, SPEC, dynamic_batch=False)
    proto = ir.to_proto(model)
    return ReferenceEvaluator(proto).run(None, {proto.graph.input[0].name: images})[0]


def test_operators_have_the_types_that_pytorch_gives_them():
    assert OpOverload is torch._ops.OpOverload
    assert OpOverloadPacket is torch._ops.OpOverloadPacket


def test_codes_of_types_are_those_of_archives():
    assert [dtype_of(code) for code in (5, 7, 13)] == [torch.int64, torch.float32, torch.bfloat16]


def test_tensors_are_found_in_nested_values():
    one, two, three = torch.zeros(1), torch.zeros(2), torch.zeros(3)
    assert [len(tensor) for tensor in tensors_in([one, ("text", {"a": two}), None, [[three]]])] == [1, 2, 3]


def test_no_other_module_asks_for_them():
    private = re.compile(
        r"^\s*(?:from|import) torch[\w.]*\._(?:export|ops|python_dispatch|internal)\b|torch\._ops\.", re.MULTILINE
    )
    modules = [path for path in Path(torch_internals.__file__).parent.rglob("*.py") if private.search(path.read_text())]
    assert [path.name for path in modules] == ["torch_internals.py"]
