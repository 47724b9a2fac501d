"""A format that nobody has heard of goes through a whole run by adding what CONTRIBUTING says, and nothing else.

It is an ONNX file under a suffix of its own: a member of `Format`, a support and an exporter stage, all made here.
"""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from datetime import datetime
from typing import ClassVar

import numpy as np
import pytest
from bundle_factory import CLASSES, QUICK, SPEC, onnx_network, run_agent
from doubles import Log, noise
from rich.console import Console

from compress.config.schema import load_target
from compress.core.artifact import Format
from compress.core.stage import ExportStage
from compress.data.splits import DataSplits
from compress.formats import registry
from compress.formats.base import DeviceRuntime
from compress.formats.onnx.support import OnnxSupport
from compress.measure.estimate.all_files import estimate_all
from compress.measure.settings import MeasureConfig
from compress.models.configs import FileModel, InputConfig
from compress.models.load import load_model, model_digest, self_contained, source_format
from compress.pipeline.deliver import BUNDLE, copy_artifacts, write_device_bundle, write_golden, write_manifest
from compress.pipeline.execute import Run, execute
from compress.pipeline.plan import Pipeline
from compress.pipeline.record import create_report, summarize_file
from compress.pipeline.store import StageStore
from compress.report.markdown import run_markdown
from compress.report.terminal import run_view
from compress.results.bundle import read_bundle
from compress.results.device import DeviceRun, read_result
from compress.results.manifest import Manifest, delivered_files
from compress.results.report import Report
from compress.support import serialize
from compress.support.serialize import from_json


@pytest.fixture
def renamed(monkeypatch):
    """The new member, known to the registry as long as the test runs."""
    member = str.__new__(Format, "renamed")
    member._name_, member._value_, member._sort_order_ = "RENAMED", "renamed", len(Format)
    monkeypatch.setitem(Format._member_map_, "RENAMED", member)
    monkeypatch.setitem(Format._value2member_map_, "renamed", member)
    monkeypatch.setattr(Format, "_member_names_", [*Format._member_names_, "RENAMED"])
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))

    class RenamedSupport(OnnxSupport):
        format = member
        suffixes = (".renamed",)
        device_runtimes: ClassVar = {"onnxruntime": DeviceRuntime(("onnxruntime",), "onnxruntime")}

        def load_source(self, path, spec):
            return replace(super().load_source(path, spec), format=member)

    registry.register(RenamedSupport())
    serialize._built.cache_clear()  # documents are read with the members that there are
    yield member
    serialize._built.cache_clear()


class ToRenamed(ExportStage):
    """Hands the file on under its stage's name."""

    accepts: ClassVar = frozenset()
    produces: ClassVar = None

    def equal_on(self):
        return 4

    def run(self, artifact, context):
        path = context.folder / f"{context.name}.renamed"
        shutil.copy(artifact.path, path)
        return artifact.after(context.name, path)


@pytest.fixture
def finished(renamed, tmp_path, monkeypatch):
    """A run from the source to the delivered folder: what the pipeline does, step by step, and its report."""
    monkeypatch.setattr(ToRenamed, "accepts", frozenset({renamed}))
    monkeypatch.setattr(ToRenamed, "produces", renamed)
    target = load_target("raspberry_pi_4", [])
    model = FileModel(kind="file", path=onnx_network(tmp_path / "net.renamed"), input=InputConfig(shape=SPEC.shape))
    assert source_format(model) is renamed
    log = Log()
    loaded = load_model(model, trusted=lambda name: False, seed=0, progress=log, finetune=None)
    source = self_contained(loaded, tmp_path / "models")
    parts = {name: noise(12, SPEC.shape, name=name) for name in ("calibration", "validation", "finetune", "evaluation")}
    splits = DataSplits(classes=CLASSES, seed=0, **parts)
    config = MeasureConfig(latency_runs=3, latency_warmup=1, latency_seconds=0.02)
    run = Run(*(target, source, model_digest(source), splits, config, StageStore(tmp_path / "stages"), 0, True, log))
    results = execute(Pipeline.check(target, {"to_renamed": ToRenamed()}, renamed), run)
    folder = tmp_path / "run"
    folder.mkdir()
    delivered = copy_artifacts(results, folder)
    write_golden(folder, source, delivered, splits, 4)
    write_device_bundle(folder, target, source, delivered, splits)
    write_manifest(folder, target.name, source, delivered, splits)
    report = create_report(
        created=datetime.now().astimezone(),
        target=target.name,
        target_title=target.title,
        overrides=(),
        config={},
        seed=0,
        splits=splits,
        measurements=tuple(result.measurement for result in results),
        files=tuple(summarize_file(folder, path) for path in delivered_files(folder)),
        estimates=estimate_all(target, [results[-1].output.artifact]),
        wall_seconds=1.0,
    )
    return folder, report


def test_it_goes_from_the_source_to_the_report(finished, renamed):
    folder, report = finished
    source, made = report.measurements
    assert (source.format, made.format) == (renamed, renamed)
    assert made.runtime.startswith("onnxruntime ")
    assert None not in (made.size_bytes, made.macs, made.parameters, made.sparsity, made.latency, made.accuracy)
    assert made.fidelity.agreement == 1.0
    assert made.feed == "source"
    assert [guess.stage for guess in report.estimates] == ["to_renamed"]
    assert {file.path for file in report.files} >= {"source.renamed", "to_renamed.renamed", "golden.npz"}
    read = Report.from_json(report.to_json())
    assert [row.format for row in read.measurements] == [renamed, renamed]
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(run_view(read, 120))
    assert "renamed fp32" in console.export_text()
    assert "renamed fp32" in run_markdown(read).decode()
    manifest = from_json(Manifest, (folder / "manifest.json").read_bytes())
    formats = {file.path: file.format for file in manifest.files}
    assert formats["to_renamed.renamed"] is renamed
    assert formats["golden.npz"] is None


def test_a_board_measures_it(finished, renamed):
    folder, _ = finished
    bundle = read_bundle(folder / BUNDLE)
    models = {model.stage: model for model in bundle.manifest.models}
    made = models["to_renamed"]
    assert (made.format, made.runtime, made.runner, made.opset) == (renamed, "onnxruntime", "onnxruntime", 17)
    assert made.needs == {"onnxruntime": "1.12"}
    done = run_agent(folder / BUNDLE, *QUICK)
    assert done.code == 0, done.err
    result = read_result(json.dumps(done.result).encode(), bundle, "here")
    assert DeviceRun("here", result).valid
    rows = {row.stage: row for row in result.results}
    assert rows["to_renamed"].golden.passed
    assert rows["to_renamed"].runtime.startswith("onnxruntime")


def test_the_member_is_gone_afterwards():
    assert "renamed" not in [member.value for member in Format]
    with np.testing.assert_raises(ValueError):
        Format("renamed")
