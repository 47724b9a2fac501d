"""The tables of the report: two lines per cell, the second one dim, so that twelve quantities fit 100 columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from compress.measure.drift import Drift
from compress.report.compare import feed_of, final_row, label, why_not_comparable
from compress.report.json_report import Report
from compress.report.text import (
    DASH,
    bytes_text,
    change_text,
    count_text,
    decibel_text,
    ms_text,
    percent_text,
    points_text,
    seconds_text,
    speed_text,
)
from compress.types import Measurement

__all__ = ["FULL_WIDTH", "changes_table", "comparison_table", "drift_table", "measurements_table"]

FULL_WIDTH = 100
"""Columns that the complete tables need; a narrower console gets fewer quantities, never cut ones."""


@dataclass(frozen=True)
class _Column:
    """A quantity of a row.

    Attributes:
        title, subtitle: the two header lines.
        cell: makes its cell.
        widths: whether it shows on a full console (True in it) and on a narrow one (False in it).
    """

    title: str
    subtitle: str
    cell: Callable[[Measurement], Text]
    widths: tuple[bool, ...] = (True, False)


def measurements_table(rows: Sequence[Measurement], width: int) -> Table:
    """One row per stage. Below 100 columns the runtime, MACs and parameters are left out."""
    columns = _columns(width)
    table = _table("stage", "time", columns)
    for row in rows:
        name = _cell(row.stage, seconds_text(row.seconds) if row.seconds is not None else "", _reused(row))
        table.add_row(name, *(column.cell(row) for column in columns))
    return table


def changes_table(rows: Sequence[Measurement]) -> Table:
    """Each stage after the source against the stage whose output it took, and against the source."""
    table = _table("stage", "", ())
    table.add_column("against", overflow="fold")
    for name in ("size", "gzip", "host latency", "top-1 points"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows[1:]:
        compared = dict.fromkeys([(feed_of(rows, row) or rows[0]).stage, rows[0].stage])
        for stage, old in ((name, next(r for r in rows if r.stage == name)) for name in compared):
            first = stage == next(iter(compared))
            cells = (row.stage if first else "", stage, *_changes(row, old))
            table.add_row(*map(Text, cells), style="" if first else "dim")
    return table


def drift_table(drifts: Sequence[Drift]) -> Table:
    """Each exported INT8 file against the graph it was made from; differences in steps (LSB) of the output."""
    table = _table("file", "runtime", ())
    table.add_column("against", overflow="fold")
    for name, detail in (("largest", "LSB"), ("mean", "LSB"), ("agree %", "images"), ("one LSB", "taken from")):
        table.add_column(_cell(name, detail), justify="right", no_wrap=True)
    for drift in drifts:
        table.add_row(
            _cell(drift.stage, drift.runtime),
            _cell(drift.reference, "torch"),
            f"{drift.max_lsb:.2f}",
            f"{drift.mean_lsb:.3f}",
            _cell(percent_text(drift.agreement), str(drift.samples)),
            _cell(f"{drift.lsb:.3g}", drift.lsb_from),
        )
    return table


def comparison_table(reports: Sequence[Report], width: int = FULL_WIDTH) -> Table:
    """One row per run of a multirun: what was asked, and the numbers of the file it delivers."""
    columns = [column for column in _columns(width) if column.title != "MACs"]
    table = _table("target", "overrides", columns)
    for report in reports:
        row = final_row(report.measurements)
        asked = [override for override in report.overrides if override != f"target={report.target}"]
        table.add_row(_cell(report.target, " ".join(asked) or "defaults"), *(column.cell(row) for column in columns))
    return table


def _table(title: str, subtitle: str, columns: Sequence[_Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False, header_style="")
    table.add_column(_cell(title, subtitle), overflow="fold", min_width=10)
    for column in columns:
        words = column.title == "format"
        header = _cell(column.title, column.subtitle)
        table.add_column(header, justify="left" if words else "right", no_wrap=not words, overflow="fold")
    return table


def _columns(width: int) -> list[_Column]:
    return [column for column in _COLUMNS if (width >= FULL_WIDTH) in column.widths]


def _cell(first: str, second: str = "", mark: str | None = None) -> Text:
    """A value over a dim detail; `mark` is a word of caution or provenance and stands out a little."""
    text = Text(first)
    if second or mark:
        text.append("\n")
        text.append(second, style="dim")
        text.append(f"{' ' if second else ''}{mark}" if mark else "", style="yellow")
    return text


def _reused(row: Measurement) -> str | None:
    return "reused" if row.reused else None


def _format(row: Measurement) -> Text:
    return _cell(f"{row.format} {row.precision}", row.runtime)


def _format_narrow(row: Measurement) -> Text:
    return _cell(str(row.format), str(row.precision))


def _size(row: Measurement) -> Text:
    return _cell(bytes_text(row.size_bytes), bytes_text(row.size_gzip_bytes), label(row, "size_bytes"))


def _zeros(row: Measurement) -> Text:
    return _cell(percent_text(row.sparsity.fraction if row.sparsity else None))


def _macs(row: Measurement) -> Text:
    return _cell(count_text(row.macs), count_text(row.parameters), label(row, "macs"))


def _latency(row: Measurement) -> Text:
    if row.latency is None:
        return _cell(DASH)
    value = f"{ms_text(row.latency.median_ms)} ({ms_text(row.latency.p90_ms)})"
    return _cell(value, mark=label(row, "latency"))


def _accuracy(row: Measurement) -> Text:
    if row.accuracy is None:
        return _cell(DASH)
    interval = f"{percent_text(row.accuracy.low)}–{percent_text(row.accuracy.high)}"
    return _cell(percent_text(row.accuracy.top1), interval, "untrusted" if "accuracy" in row.notes else None)


def _fidelity(row: Measurement) -> Text:
    if row.fidelity is None:
        return _cell(DASH)
    return _cell(percent_text(row.fidelity.agreement), decibel_text(row.fidelity.sqnr_db))


_COLUMNS = (
    _Column("format", "runtime", _format, (True,)),
    _Column("format", "precision", _format_narrow, (False,)),
    _Column("size", "gzip", _size),
    _Column("zeros", "%", _zeros),
    _Column("MACs", "params", _macs, (True,)),
    _Column("host latency", "ms p50 (p90)", _latency),
    _Column("top-1 %", "95 %", _accuracy),
    _Column("agree %", "SQNR", _fidelity),
)


def _top1(row: Measurement) -> float | None:
    return row.accuracy.top1 if row.accuracy else None


def _changes(row: Measurement, old: Measurement) -> tuple[str, str, str, str]:
    points = points_text(_top1(row), _top1(old))
    sizes = change_text(row.size_bytes, old.size_bytes), change_text(row.size_gzip_bytes, old.size_gzip_bytes)
    reason = why_not_comparable(row, old)
    if reason is None and row.latency and old.latency:
        return *sizes, speed_text(row.latency.median_ms, old.latency.median_ms), points
    return *sizes, reason or DASH, points
