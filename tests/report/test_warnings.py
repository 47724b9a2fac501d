"""What makes a whole run doubtful, or is not in it, is said in every report a person reads."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from html_outline import Outline
from report_rows import run_report
from rich.console import Console

from compress.core.chance import AtChance
from compress.core.stage import LeftOut
from compress.report import terminal
from compress.report.html.render import render
from compress.report.html.run_page import RunData, run_page
from compress.report.markdown import run_markdown

ABOUT = "labels do not fit this model?"
FIGURES = "right on 9.2 % of 360 images, and answers that have nothing to do with the labels would be on 10.1 %"
DOUBTFUL = run_report(at_chance=AtChance(0.092, 0.101, 360, 0.74))


def printed(show, report) -> str:
    stream = io.StringIO()
    show(Console(file=stream, width=100, highlight=False), report, Path("outputs/x"))
    return " ".join(stream.getvalue().split())


def page(report) -> str:
    return " ".join(render(run_page(RunData(report))).decode().split())


VIEWS = {
    "terminal": lambda report: printed(terminal.print_run, report),
    "markdown": lambda report: run_markdown(report).decode(),
    "html": page,
}


@pytest.mark.parametrize("view", VIEWS)
def test_a_source_at_chance_is_a_warning_before_any_figure(view):
    text = VIEWS[view](DOUBTFUL)
    assert ABOUT in text
    assert FIGURES in text
    assert text.index(ABOUT) < text.index("ptq")
    assert ABOUT not in VIEWS[view](run_report())


def test_the_one_line_of_quiet_says_it_too():
    assert ABOUT in printed(terminal.print_verdict, DOUBTFUL)
    assert ABOUT not in printed(terminal.print_verdict, run_report())


def test_the_page_has_a_section_for_it():
    sections = [section["id"] for section in Outline(render(run_page(RunData(DOUBTFUL)))).named("section")]
    assert sections[0] == "warnings"


@pytest.mark.parametrize("view", VIEWS)
def test_stages_left_out_are_among_the_notes(view):
    report = run_report(left_out=(LeftOut("depthfold", "it takes torch and the model is onnx"),))
    text = VIEWS[view](report)
    assert "depthfold" in text
    assert "left out of the recipe: it takes torch and the model is onnx" in text
