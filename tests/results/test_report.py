"""report.json: round trip, strict JSON, versions, and the repository it was made in."""

from __future__ import annotations

import json
from datetime import datetime
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_rows import run_report, run_rows

from compress.core.artifact import Format, Precision
from compress.core.chance import AtChance
from compress.core.errors import ConfigError
from compress.core.measurement import Accuracy, Fidelity, Latency, Measurement, Sparsity
from compress.core.stage import LeftOut
from compress.pipeline.record import create_report, summarize_file
from compress.results.report import Report, SplitSummary

counts = st.integers(0, 2**53)
shares = st.floats(0, 1)
names = st.text(max_size=8)
positive = st.floats(0, 1e9)
milliseconds = st.floats(1e-6, 1e9)
measurements = st.builds(
    Measurement,
    stage=names,
    format=st.sampled_from(Format),
    precision=st.sampled_from(Precision),
    runtime=names,
    size_bytes=st.none() | counts,
    macs=st.none() | counts,
    sparsity=st.none() | st.builds(Sparsity, counts, counts, st.dictionaries(names, shares, max_size=3)),
    latency=st.none()
    | st.builds(Latency, milliseconds, milliseconds, milliseconds, milliseconds, counts, counts, counts, counts, names),
    accuracy=st.none() | st.builds(Accuracy, shares, shares, shares, counts),
    fidelity=st.none() | st.builds(Fidelity, shares, st.floats(allow_nan=False), positive, counts),
    seconds=st.none() | positive,
    reused=st.booleans(),
    feed=st.none() | names,
    notes=st.dictionaries(names, names, max_size=3),
)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(measurements, min_size=1, max_size=3).map(tuple),
    commit=st.none() | names,
    config=st.dictionaries(
        names, st.none() | st.booleans() | counts | names | st.lists(shares, max_size=2), max_size=3
    ),
    splits=st.dictionaries(names, st.builds(SplitSummary, counts, names), max_size=2),
)
def test_law_what_is_written_is_read_back_equal(rows, commit, config, splits):
    report = run_report(rows, commit=commit, config=config, splits=splits)
    assert Report.from_json(report.to_json()) == report


def test_strict_json_with_infinity_as_a_word_and_gaps_as_null():
    def refuse(constant):
        raise AssertionError(constant)

    document = json.loads(run_report().to_json(), parse_constant=refuse)
    assert document["schema_version"] == 2
    source, *_, onnx = document["measurements"]
    assert source["fidelity"]["sqnr_db"] == "Infinity"
    assert (onnx["macs"], onnx["notes"]["macs"], onnx["precision"]) == (None, "shape unknown", "int8")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x00", "not a report"),
        (b"[1]", "has no schema_version"),
        (b'{"schema_version": 99}', "schema version 99, this program reads 2"),
        (b'{"schema_version": 2}', "Report document: created"),
    ],
)
def test_what_is_no_report_is_said_in_one_line(content, message):
    with pytest.raises(ConfigError, match=message) as error:
        Report.from_json(content)
    assert "\n" not in str(error.value)


def test_a_report_is_created_with_this_machine_and_its_libraries(tmp_path, monkeypatch):
    class Fixed:
        def __init__(self, samples):
            self.samples = samples

        def __len__(self):
            return self.samples

        def digest(self):
            return "ab" * 32

    monkeypatch.chdir(tmp_path)
    splits = SimpleNamespace(
        classes=("a", "b"), calibration=Fixed(1), finetune=Fixed(2), validation=Fixed(3), evaluation=Fixed(4)
    )
    (tmp_path / "model.onnx").write_bytes(b"model")
    report = create_report(
        created=datetime(2025, 1, 2, 3, 4, 5),
        target="jetson_nano",
        target_title="Jetson Nano",
        overrides=(),
        config={},
        seed=3,
        splits=splits,
        measurements=run_rows(),
        files=(summarize_file(tmp_path, tmp_path / "model.onnx"),),
        wall_seconds=1.0,
    )
    assert report.created.startswith("2025-01-02T03:04:05")
    assert report.commit is None
    assert report.versions["torch"].startswith("2.")
    assert report.splits["evaluation"] == SplitSummary(4, "ab" * 32)
    assert (report.files[0].path, report.files[0].size_bytes, report.classes) == ("model.onnx", 5, 2)
    assert Report.from_json(report.to_json()) == report


def test_a_source_at_chance_and_what_was_left_out_are_typed():
    doubt = AtChance(0.1, 0.1, 360, 0.52)
    report = run_report(at_chance=doubt, left_out=(LeftOut("fold_batchnorm", "it takes torch"),))
    written = json.loads(report.to_json())
    assert written["at_chance"] == {"top1": 0.1, "chance": 0.1, "samples": 360, "probability": 0.52}
    assert written["left_out"] == [{"stage": "fold_batchnorm", "reason": "it takes torch"}]
    assert Report.from_json(report.to_json()) == report
