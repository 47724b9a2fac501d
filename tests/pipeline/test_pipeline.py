"""Every stage is held against the target before any work starts."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from compress.config.schema import load_target
from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.errors import ConfigError, Refusal
from compress.core.stage import Context, ExportStage, LeftOut, Stage
from compress.pipeline.plan import SOURCE, Pipeline
from compress.stages.prune.depth import Depth
from compress.stages.prune.gradual import Gradual
from compress.stages.prune.magnitude import Magnitude
from compress.stages.prune.prune_scan import PruneScan
from compress.stages.prune.structured import Structured
from compress.stages.quantize.ptq_static import PtqStatic


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


class Export(ExportStage):
    accepts: ClassVar = frozenset({Format.TORCH, Format.ONNX})
    produces: ClassVar = Format.ONNX

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        raise AssertionError("check() must not run a stage")


class QuantizeAny(Quantize):
    accepts: ClassVar = frozenset({Format.TORCH, Format.ONNX})


class BuildEngine(Prune):
    accepts: ClassVar = frozenset({Format.ONNX})
    produces: ClassVar = Format.TENSORRT
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


def test_a_baseline_feeds_nobody_who_does_not_name_it():
    stages = {"fold": Prune(), "base": Export(baseline=True), "quantize": QuantizeAny(), "export": Export()}
    assert feeds(Pipeline.check(PI, stages, Format.TORCH)) == {
        "fold": SOURCE,
        "base": "fold",
        "quantize": "fold",
        "export": "quantize",
    }
    named = Pipeline.check(PI, stages | {"again": Export(source="base")}, Format.TORCH)
    assert feeds(named)["again"] == "base"


def test_what_could_only_take_a_baseline_is_told_to_name_it():
    stages = {"base": Export(baseline=True), "engine": BuildEngine()}
    with pytest.raises(
        Refusal, match=r"takes onnx, but only torch comes .*fix: stage.engine.source=base or ~stage.engi"
    ):
        Pipeline.check(PI, stages, Format.TORCH)
    feed = feeds(Pipeline.check(PI, stages | {"engine": BuildEngine(source="base")}, Format.TORCH))
    assert feed["engine"] == "base"


def test_a_stage_nobody_uses_is_not_sent_before_the_baseline_or_behind_the_quantizer():
    stages = {"fold": Prune(), "base": Export(baseline=True), "quantize": Quantize(), "export": Export()}
    with pytest.raises(Refusal, match=r"fix: stage.late.before=quantize or ~stage.late$"):
        Pipeline.check(PI, stages | {"late": Prune()}, Format.TORCH)
    feed = feeds(Pipeline.check(PI, stages | {"late": Prune(before="quantize")}, Format.TORCH))
    assert (feed["late"], feed["quantize"]) == ("fold", "late")
    with pytest.raises(Refusal, match=r"fix: stage.late.before=export or ~stage.late$"):
        Pipeline.check(PI, stages | {"late": Quantize()}, Format.TORCH)


RECIPE = {"fold": Prune(), "base": Export(baseline=True), "quantize": QuantizeAny(), "export": Export()}


def test_a_file_leaves_out_the_recipes_stages_that_cannot_take_it():
    pipeline = Pipeline.check(PI, RECIPE, Format.ONNX, asked=frozenset())
    assert feeds(pipeline) == {"base": SOURCE, "quantize": SOURCE, "export": "quantize"}
    assert pipeline.left_out == (
        LeftOut("fold", "it takes torch and the model is onnx: an ONNX file is a frozen graph"),
    )


def test_what_the_user_asked_for_is_never_left_out():
    with pytest.raises(Refusal, match=r"'fold' takes torch, but only onnx comes before it: an ONNX file is a frozen"):
        Pipeline.check(PI, RECIPE, Format.ONNX, asked=frozenset({"fold"}))


def test_the_promised_precision_is_never_left_out():
    stages = {"fold": Prune(), "quantize": Quantize(), "export": Export()}
    with pytest.raises(Refusal, match="'quantize' takes torch, but only onnx comes before it"):
        Pipeline.check(PI, stages, Format.ONNX, asked=frozenset())


def test_a_missing_exporter_is_not_the_models_fault():
    stages = {"fold": Prune(), "quantize": QuantizeAny(), "engine": BuildEngine(source="quantize")}
    with pytest.raises(Refusal, match=r"'engine' takes onnx, but only torch comes before it"):
        Pipeline.check(PI, stages, Format.ONNX, asked=frozenset())


def test_a_stage_whose_source_or_place_is_a_stage_left_out():
    stages = {**RECIPE, "early": Export(before="fold", source=SOURCE), "branch": Export(source="fold")}
    feed = feeds(Pipeline.check(PI, stages, Format.ONNX, asked=frozenset({"early"})))
    assert next(iter(feed)) == "early"
    assert feed["branch"] == "early"  # the newest of what `fold` itself had before it
    with pytest.raises(
        Refusal, match=r"stage.branch.source=fold is left out: it takes torch.*fix: stage.branch.source=n"
    ):
        Pipeline.check(PI, stages, Format.ONNX, asked=frozenset({"branch"}))


class Fold(Prune):
    def equal_on(self):
        return 1


class Foresees(Export):
    seen: ClassVar[list] = []

    def foresee(self, source, target):
        self.seen.append((source.format, target.name))


@pytest.mark.parametrize(
    ("stages", "asked"),
    [
        ({"prune": Prune(), "export": Foresees()}, True),
        ({"fold": Fold(), "export": Foresees()}, False),  # found out at once by running it
        ({"fold": Fold(), "export": Foresees(), "prune": Prune(), "more": Foresees()}, False),
        ({"prune": Prune()}, False),
    ],
    ids=["work before", "nothing before", "an early file", "no file"],
)
def test_an_exporter_is_asked_before_the_work_that_would_be_lost(stages, asked):
    Foresees.seen.clear()
    module = Artifact(Format.TORCH, torch.nn.Identity(), Precision.FP32, InputSpec((3, 4, 4)))
    Pipeline.check(NANO, stages, Format.TORCH).foresee(module)
    assert Foresees.seen == ([(Format.TORCH, "jetson_nano")] if asked else [])


@pytest.mark.parametrize("late", [Magnitude(), PruneScan(), Gradual(), Structured(), Depth()])
def test_a_fix_names_the_stage_that_came_too_early(late):
    stages = {"fold": Fold(), "ptq_static": Quantize(), "mine": Prune(), "late": late, "export": Export()}
    with pytest.raises(Refusal) as caught:
        Pipeline.check(PI, stages, Format.TORCH)
    assert "stage.late.before=ptq_static" in (caught.value.fix or "")
    assert Pipeline.check(PI, {**stages, "late": late.model_copy(update={"before": "ptq_static"})}, Format.TORCH)


def test_quantizing_twice_names_both():
    with pytest.raises(Refusal, match=r"fix: ~stage.again or ~stage.ptq$"):
        Pipeline.check(PI, {"ptq": PtqStatic(), "again": PtqStatic(), "export": Export()}, Format.TORCH)
