"""One run from what was typed to the folder: all of it, or nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
from bundle_factory import SPEC, onnx_network
from doubles import Log

from compress.core.errors import ConfigError, StageError
from compress.pipeline import run
from compress.pipeline.request import Request
from compress.pipeline.store_size import Trimmed
from compress.results.manifest import Manifest, delivered_files
from compress.support.serialize import from_json


@pytest.fixture
def typed(tmp_path):
    """Overrides of a run on a small ONNX file and noise, exported as it is."""
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (60, 10, 10, 3), dtype=np.uint8), np.arange(60) % 4
    np.savez(tmp_path / "images.npz", images=images, labels=labels)
    path = onnx_network(tmp_path / "net.onnx")
    shape = ",".join(map(str, SPEC.shape))
    return (
        *("target=raspberry_pi_4", "precision=fp32", "budget=off", f"output={tmp_path / 'out'}"),
        *("model=file", f"model.path={path}", f"model.input.shape=[{shape}]"),
        *("data=npz", f"data.file={tmp_path / 'images.npz'}", "data.resize=9", "data.interpolation=nearest"),
        *("data.calibration=8", "data.validation=8", "data.evaluation=12"),
        *("measure.latency_runs=3", "measure.latency_warmup=1", "measure.latency_seconds=0.02"),
    )


def folders(tmp_path):
    target = tmp_path / "out" / "raspberry_pi_4"
    return [path.name for path in target.iterdir()] if target.exists() else []


def test_a_run_delivers_what_its_report_and_manifest_say(typed, tmp_path):
    log = Log()
    finished = run.run_once(Request(typed), log)
    assert [finished.folder.name] == folders(tmp_path)
    assert finished.failures == ()
    stages = [row.stage for row in finished.report.measurements]
    assert stages[0] == "source"
    assert any("is left out: it takes torch and the model is onnx" in line for line in log.lines)
    manifest = from_json(Manifest, (finished.folder / "manifest.json").read_bytes())
    assert {file.path for file in manifest.files} == {
        path.relative_to(finished.folder).as_posix() for path in delivered_files(finished.folder)
    }
    assert (manifest.scaling.resize, manifest.scaling.interpolation) == (9, "nearest")
    bundle = json.loads((finished.folder / "bundle" / "manifest.json").read_text())
    assert bundle["scaling"] == {"resize": 9, "interpolation": "nearest", "stretch": False}
    histories = {file.path: file.history for file in manifest.files if file.stage}
    assert all(len(set(history)) == len(history) for history in histories.values()), histories
    assert finished.report.estimates
    assert finished.report.budget[0].drop is None


def test_a_delivery_that_fails_leaves_no_folder(typed, tmp_path, monkeypatch):
    def fail(*arguments):
        raise StageError("the disk is full")

    monkeypatch.setattr(run, "write_golden", fail)
    with pytest.raises(StageError, match="the disk is full"):
        run.run_once(Request(typed), Log())
    assert folders(tmp_path) == []


def test_a_wrong_request_starts_nothing(typed, tmp_path):
    with pytest.raises(ConfigError):
        run.run_once(Request((*typed, "data.interpolation=cubic")), Log())
    assert not (tmp_path / "out").exists()


class Store:
    def __init__(self, result):
        self.result = result

    def enforce(self, limit):
        assert limit == 2 << 30
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (Trimmed(0, 0, 1 << 20), None),
        (Trimmed(3, 5 << 30, 1 << 30), "3 that were not used for longest are removed (5.0 GiB), 1.0 GiB are left"),
        (Trimmed(0, 0, 3 << 30), "0 that were not used for longest are removed (0.0 GiB), 3.0 GiB are left"),
        (StageError("it is locked"), "what is stored is not pruned: it is locked"),
    ],
)
def test_what_happened_to_the_store_is_told_where_it_matters(result, told):
    log = Log()
    run._trim(Store(result), 2, log)
    assert len(log.lines) == (told is not None)
    assert told is None or told in log.lines[0]
