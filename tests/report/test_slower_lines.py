"""Every report says why INT8 is slower than FP32 where it is."""

from __future__ import annotations

import io

from report_rows import run_report
from rich.console import Console

from compress.profile.slower import Slowdown, Slower
from compress.report.compare import SLOWER, slower_lines
from compress.report.html.render import render
from compress.report.html.run_page import RunData, run_page
from compress.report.markdown import run_markdown
from compress.report.terminal import run_view
from compress.results.report import Report

STRETCH = Slowdown("tanh", "Tanh", 2.0, 1.0, "Tanh, computed in float, with 2 conversions", ("a", "b"))
SLOW = Slower("to_onnx", "to_onnx_fp32", 1.4, (STRETCH,), ("leave these layers in float: keep_float=[a,b]",))


def test_every_view_says_it_and_the_report_keeps_it():
    report = run_report(slower=(SLOW,))
    assert Report.from_json(report.to_json()) == report
    assert slower_lines([SLOW])[0] == ("to_onnx", "takes 1.4x longer than to_onnx_fp32 on this host:")
    plain = Console(file=io.StringIO(), width=400)
    plain.print(run_view(report, 400))
    for text in (plain.file.getvalue(), run_markdown(report).decode(), render(run_page(RunData(report))).decode()):
        assert SLOWER in text
        assert "2.00 ms, 1.00 ms in FP32: Tanh, computed in float" in text
    assert SLOWER not in run_markdown(run_report()).decode()
