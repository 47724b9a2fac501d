"""Bars on a terminal, lines elsewhere."""

from __future__ import annotations

import io

from rich.console import Console

from compress.report.progress import RichProgress


def make(monkeypatch, *, terminal, ci=False):
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    if ci:
        monkeypatch.setenv("CI", "true")
    stream = io.StringIO()
    console = Console(file=stream, width=100, force_terminal=terminal, color_system=None, highlight=False)
    return RichProgress(console), stream


def test_a_pipe_gets_log_lines_only(monkeypatch):
    progress, stream = make(monkeypatch, terminal=False)
    assert list(progress.track(range(3), "work")) == [0, 1, 2]
    progress.log("[stage] done " + "x" * 120)
    assert stream.getvalue() == "[stage] done " + "x" * 120 + "\n"


def test_a_terminal_gets_a_bar_with_counts_and_time_left(monkeypatch):
    progress, stream = make(monkeypatch, terminal=True)
    assert list(progress.track(iter("ab"), "calibrate [x]", total=2)) == ["a", "b"]
    shown = stream.getvalue()
    assert "calibrate [x]" in shown
    assert "left" in shown
    assert "2/2" in shown or "1/2" in shown or "0/2" in shown


def test_ci_gets_no_bar_even_on_a_terminal(monkeypatch):
    progress, stream = make(monkeypatch, terminal=True, ci=True)
    assert list(progress.track(range(2), "work")) == [0, 1]
    assert stream.getvalue() == ""


def test_bars_nest_and_end_when_the_work_stops_early(monkeypatch):
    progress, stream = make(monkeypatch, terminal=True)
    for outer in progress.track(range(2), "outer"):
        inner = progress.track(range(100), "inner")
        assert next(inner) == 0
        inner.close()
        assert outer in (0, 1)
    progress.log("after")
    assert progress._bars is None
    assert stream.getvalue().rstrip().endswith("after")
