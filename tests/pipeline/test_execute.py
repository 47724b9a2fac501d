"""The loop over a pipeline's steps: what is run, what is found again, and what a stage may not do."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from doubles import Log, noise
from torch import nn

from compress.config.schema import load_target
from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.errors import StageError
from compress.core.stage import Stage
from compress.data.splits import DataSplits
from compress.measure.settings import MeasureConfig
from compress.pipeline.execute import Run, execute
from compress.pipeline.plan import Pipeline
from compress.pipeline.store import StageStore

SPEC = InputSpec((1, 4, 4), "gray", (0.5,), (0.5,))


class Append(Stage):
    """Appends a layer that changes nothing; counts its runs."""

    accepts: ClassVar = frozenset({Format.TORCH})
    produces: ClassVar = Format.TORCH
    runs: ClassVar[list[str]] = []

    by: float = 2.0

    def run(self, artifact, context):
        self.runs.append(context.name)
        if self.by == 0:
            raise StageError("nothing is left")
        return artifact.after(context.name, nn.Sequential(artifact.module, nn.Threshold(-1e9 * self.by, 0.0)))


class Look(Stage):
    """Hands on what it was given, and says something of it."""

    accepts: ClassVar = frozenset({Format.TORCH})
    produces: ClassVar = None

    def run(self, artifact, context):
        return Artifact(**{**vars(artifact), "notes": {"seen": "a module"}})


class Broken(Stage):
    """Promises a file and hands on the module."""

    accepts: ClassVar = frozenset({Format.TORCH})
    produces: ClassVar = Format.ONNX

    def run(self, artifact, context):
        return artifact.after(context.name, artifact.module)


@pytest.fixture
def run(tmp_path):
    torch.manual_seed(0)
    source = Artifact(Format.TORCH, nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval(), Precision.FP32, SPEC)
    parts = {name: noise(6, SPEC.shape, name=name) for name in ("calibration", "validation", "finetune", "evaluation")}
    splits = DataSplits(classes=("a", "b", "c"), seed=0, **parts)
    config = MeasureConfig(latency_runs=3, latency_warmup=1, latency_seconds=0.02)
    Append.runs.clear()

    def make(*, resume=True):
        store = StageStore(tmp_path / "stages")
        return Run(load_target("raspberry_pi_4", []), source, "digest", splits, config, store, 0, resume, Log())

    return make


def rows(run, **stages):
    pipeline = Pipeline.check(run.target, stages, Format.TORCH)
    return [result.measurement for result in execute(pipeline, run)]


def test_every_boundary_is_measured_against_the_source(run):
    source, twice, again = rows(run(), twice=Append(), again=Append(by=3))
    assert [row.stage for row in (source, twice, again)] == ["source", "twice", "again"]
    assert (source.feed, twice.feed, again.feed) == (None, "source", "twice")
    assert again.fidelity.agreement == 1.0
    assert (source.seconds, twice.seconds is not None, twice.reused) == (None, True, False)
    assert Append.runs == ["twice", "again"]


def test_a_finished_stage_is_found_again_unless_that_is_not_wanted(run):
    rows(run(), twice=Append())
    assert [row.reused for row in rows(run(), twice=Append())] == [True, True]
    assert Append.runs == ["twice"]
    assert [row.reused for row in rows(run(resume=False), twice=Append())] == [False, False]
    assert Append.runs == ["twice", "twice"]


@pytest.mark.parametrize("changed", ["option", "version", "code"])
def test_what_decides_a_result_makes_it_new(run, monkeypatch, changed):
    rows(run(), twice=Append())
    if changed == "version":
        monkeypatch.setattr("compress.pipeline.execute.tool_versions", lambda: {"torch": "another"})
    if changed == "code":
        monkeypatch.setattr("compress.pipeline.execute.source_digest", lambda: "another")
    rows(run(), twice=Append(by=3 if changed == "option" else 2))
    assert Append.runs == ["twice", "twice"]


def test_what_finished_before_a_failure_stays(run):
    with pytest.raises(StageError, match="nothing is left"):
        rows(run(), twice=Append(), none=Append(by=0))
    rows(run(), twice=Append(), again=Append(by=3))
    assert Append.runs == ["twice", "none", "again"]


def test_a_stage_that_only_looks_has_the_figures_of_what_it_saw(run):
    _, twice, look = rows(run(), twice=Append(), look=Look())
    assert (look.handed_on, look.feed, look.notes["seen"]) == (True, "twice", "a module")
    assert (look.size_bytes, look.latency, look.accuracy) == (twice.size_bytes, twice.latency, twice.accuracy)


def test_a_stage_keeps_its_promise_of_a_format(run):
    """Whatever comes after it was held against the target by that promise."""
    with pytest.raises(StageError, match=r"promises onnx and made torch: .* fix: correct Broken\.produces"):
        rows(run(), broken=Broken())
