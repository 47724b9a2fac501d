"""Every stage is held against the target before any work starts."""

from __future__ import annotations

from typing import ClassVar

import pytest

from compress.config import load_target
from compress.errors import ConfigError, Refusal
from compress.pipeline import SOURCE, Pipeline
from compress.stage import Context, Stage
from compress.types import Artifact, Format, Precision


class Prune(Stage):
    accepts: ClassVar = frozenset({Format.TORCH})
    produces: ClassVar = Format.TORCH
    why_not_onnx: ClassVar = "an ONNX file is a frozen graph"

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        raise AssertionError("check() must not run a stage")


class Quantize(Prune):
    def precision_from(self, precision):
        return Precision.INT8

    def requires(self, target, precision, name):
        target.require_precision(Precision.INT8, stage=name)


class Export(Prune):
    accepts: ClassVar = frozenset({Format.TORCH, Format.ONNX})
    produces: ClassVar = Format.ONNX
    why_not_onnx: ClassVar = None


NANO = load_target("jetson_nano", [])
PI = load_target("raspberry_pi_4", [])


def feeds(pipeline):
    return {step.name: step.feed for step in pipeline.steps}


def test_each_stage_takes_the_newest_output_it_accepts():
    pipeline = Pipeline.check(PI, {"prune": Prune(), "quantize": Quantize(), "export": Export()}, Format.TORCH)
    assert feeds(pipeline) == {"prune": SOURCE, "quantize": "prune", "export": "quantize"}
    assert [step.precision for step in pipeline.steps] == [Precision.FP32, Precision.INT8, Precision.INT8]


def test_source_branches():
    stages = {"prune": Prune(), "quantize": Quantize(), "a": Export(), "b": Export(source="prune")}
    assert feeds(Pipeline.check(PI, stages, Format.TORCH))["b"] == "prune"


def test_before_moves_a_stage():
    stages = {"export": Export(), "late": Prune(before="export")}
    assert feeds(Pipeline.check(PI, stages, Format.TORCH)) == {"late": SOURCE, "export": "late"}


def test_int8_on_the_nano_is_refused_with_reason_and_fix():
    with pytest.raises(Refusal, match=r"Jetson Nano cannot run int8 compute: .*sm_53.*fix: precision=fp16"):
        Pipeline.check(NANO, {"quantize": Quantize()}, Format.TORCH)


def test_pruning_refuses_an_onnx_source_with_the_reason():
    with pytest.raises(Refusal, match=r"'prune' takes torch, but only onnx comes before it: an ONNX file is a frozen"):
        Pipeline.check(PI, {"prune": Prune(), "export": Export()}, Format.ONNX)


def test_an_onnx_source_goes_straight_to_stages_that_take_it():
    assert feeds(Pipeline.check(PI, {"export": Export()}, Format.ONNX)) == {"export": SOURCE}


def test_a_stage_nobody_uses_is_refused_with_the_place_for_it():
    with pytest.raises(Refusal, match=r"nothing after it uses its output \| fix: stage.late.before=export"):
        Pipeline.check(PI, {"export": Export(), "late": Prune()}, Format.TORCH)


def test_without_any_exporter_the_last_module_is_the_result():
    assert len(Pipeline.check(PI, {"prune": Prune()}, Format.TORCH).steps) == 1


@pytest.mark.parametrize("option", ["source", "before"])
def test_unknown_stage_names_give_the_nearest(option):
    with pytest.raises(ConfigError, match=f"stage.export.{option}='prun' .*did you mean 'prune'"):
        Pipeline.check(PI, {"prune": Prune(), "export": Export(**{option: "prun"})}, Format.TORCH)
