"""Reports, profiles, multiruns and what boards say: numbers have bounds, and any document is read or is one line."""

from __future__ import annotations

import json
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from doubles import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report_rows import run_report

from compress.core.errors import CompressError, ConfigError
from compress.report.__main__ import main
from compress.results.report import Report

SCRIPTS = ROOT / "scripts"


def changed(path: tuple[str | int, ...], value: object) -> bytes:
    document = json.loads(run_report().to_json())
    holder = document
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("measurements", 0, "latency", "median_ms"), -1, r"measurements\.0\.latency\.median_ms is -1"),
        (("measurements", 0, "latency", "median_ms"), "NaN", r"median_ms is 'NaN'"),
        (("measurements", 0, "latency", "runs"), 10**18, r"runs is 1000000000000000000"),
        (("measurements", 0, "accuracy", "top1"), 1.5, r"accuracy\.top1 is 1\.5: Input should be less than"),
        (("measurements", 0, "format"), None, r"measurements\.0\.format is null: Input should be 'torch'"),
        (("measurements", 0, "fidelity", "sqnr_db"), "NaN", r"sqnr_db is 'NaN'"),
        (("measurements",), [], "measurements is empty"),
        (("overrides",), ["a"] * 2000, "overrides is a list of 2000: Tuple should have at most 1000"),
        (("host", "cores"), "many", r"host\.cores is 'many': Input should be a valid integer"),
        (("wall_seconds",), 1e300, r"wall_seconds is 1e\+300"),
        (("seed",), 2**70, "does not fit 64 bits"),
        (("target_title",), "\ud800", "half of a surrogate pair"),
        (("schema_version",), "x" * 100_000, "the report has schema version"),
    ],
)
def test_a_field_out_of_bounds_is_named(tmp_path, capsys, path, value, message):
    (tmp_path / "report.json").write_bytes(changed(path, value))
    with pytest.raises(ConfigError, match=message) as caught:
        Report.from_json((tmp_path / "report.json").read_bytes())
    assert "\n" not in str(caught.value)
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'report.json'}: ")
    assert not (tmp_path / "report.html").exists()


def test_a_run_that_only_looked_is_shown(tmp_path):
    report = run_report()
    rows = tuple(replace(row, handed_on=True) for row in report.measurements)
    (tmp_path / "report.json").write_bytes(replace(report, measurements=rows).to_json())
    assert main([str(tmp_path)]) == 0


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    yield tmp_path
    for name in ("robustness_documents", "robustness_json", "robustness_case"):
        sys.modules.pop(name, None)


def try_seed(seed: int, folder: Path) -> None:
    """A document, its page not drawn: that takes a second."""
    from robustness_documents import document_case

    case = document_case(random.Random(seed))
    case.prepare(folder)
    try:
        case.run()
    except CompressError as error:
        assert "\n" not in str(error)  # noqa: PT017  either is right


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_any_document_is_read_or_one_line(scripts, seed):
    try_seed(seed, scripts)


@pytest.mark.slow
@settings(max_examples=3000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_many_documents_are_read_or_one_line(scripts, seed):
    try_seed(seed, scripts)
