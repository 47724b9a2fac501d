"""The tables of the terminal: two lines per cell, the second one dim, so that twelve quantities fit 100 columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from compress.core.measurement import Measurement
from compress.measure.drift import Drift
from compress.report.columns import (
    CHANGES,
    COLUMNS,
    DRIFT,
    Cell,
    Column,
    Head,
    change_rows,
    drift_rows,
    run_cells,
    stage_cell,
)
from compress.report.compare import final_row
from compress.results.report import Report

__all__ = ["FULL_WIDTH", "changes_table", "comparison_table", "drift_table", "measurements_table"]

FULL_WIDTH = 100
"""Columns that the complete tables need; a narrower console gets fewer quantities, never cut ones."""


def measurements_table(rows: Sequence[Measurement], width: int) -> Table:
    """One row per stage. Below 100 columns the runtime, MACs and parameters are left out."""
    columns = _columns(width)
    table = _table([Head("stage", "time", words=True), *(column.head for column in columns)])
    for row in rows:
        table.add_row(*map(_text, (stage_cell(row), *(column.cell(row) for column in columns))))
    return table


def changes_table(rows: Sequence[Measurement]) -> Table:
    """Each stage after the source against the stage whose output it took, and against the source."""
    table = _table(CHANGES)
    for cells in change_rows(rows):
        table.add_row(*map(_text, cells), style="" if cells[0].value else "dim")
    return table


def drift_table(drifts: Sequence[Drift]) -> Table:
    """Each exported INT8 file against the graph it was made from; differences in steps (LSB) of the output."""
    table = _table(DRIFT)
    for cells in drift_rows(drifts):
        table.add_row(*map(_text, cells))
    return table


def comparison_table(reports: Sequence[Report], width: int = FULL_WIDTH) -> Table:
    """One row per run of a multirun: what was asked, and the numbers of the file it delivers."""
    columns = [column for column in _columns(width) if column.head.title != "MACs"]
    table = _table([Head("target", "overrides", words=True), *(column.head for column in columns)])
    for report in reports:
        row = final_row(report.measurements)
        table.add_row(*map(_text, (run_cells(report), *(column.cell(row) for column in columns))))
    return table


def _table(heads: Iterable[Head]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False, header_style="")
    for place, head in enumerate(heads):
        title = _text(Cell(head.title, head.subtitle))
        if head.words:
            table.add_column(title, overflow="fold", min_width=None if place else 10)
        else:
            table.add_column(title, justify="right", no_wrap=True, overflow="fold")
    return table


def _columns(width: int) -> list[Column]:
    return [column for column in COLUMNS if (width >= FULL_WIDTH) in column.widths]


def _text(cell: Cell) -> Text:
    """A value over a dim detail; the mark stands out a little."""
    text = Text(cell.value)
    if cell.detail or cell.mark:
        text.append("\n")
        text.append(cell.detail, style="dim")
        text.append(f"{' ' if cell.detail else ''}{cell.mark}" if cell.mark else "", style="yellow")
    return text
