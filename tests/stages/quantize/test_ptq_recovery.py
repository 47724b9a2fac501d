"""The recovery options of the static quantization stage."""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from doubles import Log, noise, stage_context
from pydantic import ValidationError
from torch import nn

from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.errors import Refusal, StageError
from compress.core.target import Int8Scheme, Target
from compress.graph.weights import compute_weights
from compress.stages.quantize.ptq_static import PtqStatic

SPEC = InputSpec((3, 8, 8))


def target():
    source = "made up for a test"
    number, word = {"value": 1, "source": source}, {"value": "3", "source": source}
    return Target(
        name="board", title="Board", architecture="aarch64", formats={}, peak_flops={}, compute=word, runtime=word,
        python=word, isa_flags={"value": (), "source": source}, memory_bytes=number, bandwidth_bytes_per_s=number,
        precisions={"int8": {"value": True, "source": source}},
        int8=Int8Scheme(placement="onnxruntime", source=source),
    )  # fmt: skip


def run(**options):
    torch.manual_seed(0)
    layers = {"stem": nn.Conv2d(3, 8, 3), "act": nn.ReLU(), "body": nn.Conv2d(8, 8, 3)}
    module = nn.Sequential(OrderedDict(**layers, flat=nn.Flatten(), head=nn.Linear(128, 5))).eval()
    log = Log()
    splits = SimpleNamespace(calibration=noise(20, SPEC.shape), validation=noise(12, SPEC.shape, seed=1))
    context = stage_context("ptq", target=target(), splits=splits, log=log)
    return PtqStatic(**options).run(Artifact(Format.TORCH, module, Precision.FP32, SPEC), context), log


def dtypes(result):
    return {weight.layer: weight.tensor.dtype for weight in compute_weights(result.module)}


def test_what_recovery_did_is_logged_and_noted():
    result, log = run(equalize="weights", bias_correction=True)
    assert log.lines == [f"ptq: {result.notes['recovery']}"]
    assert result.notes["recovery"] == "equalized the weights of 3 layers, corrected the biases of 3 layers"
    assert run()[0].notes == {}


def test_adaptive_rounding_says_whether_it_was_kept():
    result, log = run(rounding="adaptive")
    assert "rounding is kept: adaptive" in result.notes["rounding"]
    assert f"ptq: {result.notes['rounding']}" in log.lines
    assert ("adaptively" in result.notes.get("recovery", "")) == result.notes["rounding"].startswith("adaptive")


def test_layers_kept_in_float_stay_float():
    result, log = run(keep_float=["head"])
    assert dtypes(result) == {"stem": torch.int8, "body": torch.int8, "head": torch.float32}
    assert log.lines == ["ptq: left in float: 1 x linear"]


def test_a_pattern_that_matches_nothing_names_its_neighbours():
    with pytest.raises(StageError, match=r"keep_float pattern 'haed' matches no layer.*names near it: head"):
        run(keep_float=["haed"])


def test_no_layer_can_stay_in_float_where_the_runtime_has_none():
    stage = PtqStatic(placement="edgetpu", keep_float=["head"])
    with pytest.raises(Refusal, match=r"'edgetpu' leaves nothing in float, but keep_float names head.*keep_float=\[\]"):
        stage.requires(target(), Precision.FP32, "ptq")
    PtqStatic(placement="edgetpu").requires(target(), Precision.FP32, "ptq")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smooth": 1.5}, "less than or equal to 1"),
        ({"rounding": "stochastic"}, "'nearest' or 'adaptive'"),
        ({"keep_float": [""]}, "at least 1 character"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValidationError, match=message):
        PtqStatic(**options)
