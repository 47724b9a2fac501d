"""The accuracy budget is in every report: what was allowed, what was lost, and whether it was held."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from report_rows import run_report
from rich.console import Console

from compress.core.budget import Outcome, Verdict
from compress.report.compare import budget_lines, budget_word
from compress.report.html.render import render
from compress.report.html.run_page import RunData, run_page
from compress.report.markdown import run_markdown
from compress.report.terminal import print_verdict, run_view
from compress.results.report import Report

HELD = Outcome(1.0, "to_onnx", Verdict(128, 120, 1, 0, 0.99, 31.2), True)
MISSED = Outcome(1.0, "to_onnx", Verdict(128, 120, 12, 0, 0.9, 9.0), False, "more than 1 points are lost")
UNJUDGED = Outcome(
    1.0, "to_onnx", Verdict(64, 5, 1, 1, 0.9, 25.0, labelled=False), None, "labels do not fit this model?"
)
SATURATED = replace(HELD, saturates=True)
OFF = Outcome(None, reason="budget=off: nothing was held to the source's accuracy")


@pytest.mark.parametrize(
    ("outcome", "word", "sentence"),
    [
        (
            HELD,
            "held",
            "to_onnx: 1 points of top-1 against the source may be lost; top-1 \N{MINUS SIGN}0.8 points on 128 "
            "validation images (95 % \N{MINUS SIGN}2.9 to +1.4), SQNR 31.2 dB",
        ),
        (SATURATED, "held", "the table's top-1 is of this processor, which does"),
        (MISSED, "MISSED", "; more than 1 points are lost"),
        (UNJUDGED, "not judged", "SQNR 25.0 dB on 64 images; labels do not fit this model?"),
        (OFF, "off", "budget=off: nothing was held to the source's accuracy"),
    ],
)
def test_in_words_and_in_every_view(outcome, word, sentence):
    ((first, second),) = budget_lines([outcome])
    assert first == budget_word(outcome) == word
    assert second.endswith(sentence)
    report = run_report(budget=(outcome,))
    plain = Console(file=io.StringIO(), width=400)
    plain.print(run_view(report, 400))
    assert f"{word}  {second}" in plain.file.getvalue()
    assert "**Accuracy budget**" in run_markdown(report).decode()
    assert f"**{word}**" in run_markdown(report).decode()
    html = render(run_page(RunData(report)))
    text = html if isinstance(html, str) else html.decode()
    assert "Accuracy budget" in text
    assert f"{word}</dt>" in text


def test_the_one_line_verdict_says_it(tmp_path):
    plain = Console(file=io.StringIO(), width=400)
    print_verdict(plain, run_report(budget=(MISSED,)), tmp_path)
    assert "; budget MISSED: " in plain.file.getvalue()


def test_the_json_keeps_it_and_older_reports_have_none():
    report = run_report(budget=(HELD, OFF))
    assert Report.from_json(report.to_json()).budget == (HELD, OFF)
    assert run_report().budget == ()
