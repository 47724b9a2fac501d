"""`report.md`: a run as a pull request shows it, in GitHub-flavoured Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from compress.core.errors import one_line
from compress.report.columns import (
    COLUMNS,
    DRIFT,
    Cell,
    Head,
    device_heads,
    device_rows,
    drift_rows,
    run_cells,
    stage_cell,
)
from compress.report.compare import (
    SLOWER,
    budget_lines,
    final_row,
    grouped_notes,
    in_words,
    left_out_notes,
    measured_on,
    slower_lines,
    warnings,
)
from compress.report.devices import device_notes, estimate_lines
from compress.report.text import runs_text, seconds_text
from compress.results.report import Report

__all__ = ["comparison_markdown", "run_markdown"]

_SPECIAL = re.compile(r"([\\`*_\[\]|~])")
_LONGEST_NOTE = 1 << 16  # characters; notes list layers
_HEADS = [column.head for column in COLUMNS if True in column.widths]


def run_markdown(report: Report) -> bytes:
    """One run: every stage, what it did in words, drift, devices, and the reasons for gaps."""
    rows = report.measurements
    cells = [[stage_cell(row), *(column.cell(row) for column in COLUMNS if True in column.widths)] for row in rows]
    parts = [
        f"### {_text(report.target_title)}: compression report",
        _text(measured_on(report)),
        *(f"> **warning: {_text(about)}** {_text(sentence)}" for about, sentence in warnings(report)),
        _table([Head("stage", "time", words=True), *_HEADS], cells),
        _list(in_words(rows)),
    ]
    if report.budget:
        parts += ["**Accuracy budget**", _list(budget_lines(report.budget))]
    if report.slower:
        parts += [f"**{SLOWER}**", _list(slower_lines(report.slower))]
    if report.drift:
        parts += ["**Drift from the INT8 graph in PyTorch**", _table(DRIFT, drift_rows(report.drift))]
    if report.devices:
        parts += ["**Measured on the device**", _table(device_heads(report.devices), device_rows(report.devices))]
        parts.append(_list(device_notes(report.devices)))
    if report.estimates:
        parts += ["**Estimated for the device, not measured**", _list(estimate_lines(report.estimates))]
    if notes := [*left_out_notes(report), *grouped_notes(rows)]:
        parts += ["**Notes**", _list(notes)]
    parts.append(f"whole run {seconds_text(report.wall_seconds)}, measuring included; seed {report.seed}")
    return ("\n\n".join(part for part in parts if part) + "\n").encode()


def comparison_markdown(reports: Sequence[Report], failures: Sequence[tuple[str, str]] = ()) -> bytes:
    """Several runs: what each one delivers, and `(asked, error)` of those that failed."""
    columns = [column for column in COLUMNS if True in column.widths]
    rows = [
        [run_cells(report), *(column.cell(final_row(report.measurements)) for column in columns)] for report in reports
    ]
    parts = [f"### {runs_text(len(reports))}: what each one delivers"]
    parts.append(_table([Head("target", "overrides", words=True), *_HEADS], rows))
    if failures:
        parts += [f"**{len(failures)} failed**", _list(failures)]
    return ("\n\n".join(parts) + "\n").encode()


def _table(heads: Sequence[Head], rows: Iterable[Sequence[Cell]]) -> str:
    titles = [_text(head.title) + (f"<br>{_text(head.subtitle)}" if head.subtitle else "") for head in heads]
    sides = [":--" if head.words else "--:" for head in heads]
    return "\n".join(_line(cells) for cells in [titles, sides, *([_cell(cell) for cell in row] for row in rows)])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell) -> str:
    value = f"{_text(cell.value)} *{_text(cell.mark)}*".strip() if cell.mark else _text(cell.value)
    return f"{value}<br>{_text(cell.detail)}" if cell.detail else value


def _list(entries: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"* **{_text(name)}**: {_text(sentence)}" for name, sentence in entries if sentence)


def _text(text: str) -> str:
    """One line in which nothing is Markdown or HTML, no pipe ends a cell and nobody is mentioned."""
    line = one_line(" ".join(text.split()), _LONGEST_NOTE)
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("@", "&#64;")
    return _SPECIAL.sub(r"\\\1", line)
