"""The drift of exported INT8 files in the report."""

from __future__ import annotations

import io
from pathlib import Path

from report_rows import run_report
from rich.console import Console

from compress.measure.drift import Drift
from compress.report import terminal
from compress.results.report import Report

DRIFT = Drift("to_onnx", "ptq_static", "onnxruntime 1.31.0", 0.0898, "logit range", 1.28, 0.0134, 0.992, 128)


def render(report, width):
    stream = io.StringIO()
    terminal.print_run(Console(file=stream, width=width, highlight=False), report, Path("outputs/x"))
    return stream.getvalue()


def test_it_is_shown_in_80_columns():
    lines = render(run_report(drift=(DRIFT,)), 80).splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("Drift of the exported INT8 files"))
    assert max(map(len, lines)) <= 80
    shown = [" ".join(line.split()) for line in lines[start + 4 : start + 6]]
    assert shown == ["to_onnx ptq_static 1.28 0.013 99.2 0.0898", "onnxruntime 1.31.0 torch 128 logit range"]


def test_without_int8_files_there_is_no_section():
    assert "Drift" not in render(run_report(), 100)


def test_it_is_kept_in_the_json_and_older_reports_read_without_it():
    report = run_report(drift=(DRIFT,))
    assert Report.from_json(report.to_json()) == report
    assert Report.from_json(run_report().to_json().replace(b'"drift": [],', b"")) == run_report()
