"""The page about several runs, side by side."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from pydantic import JsonValue

from compress.core.measurement import Latency, Measurement
from compress.measure.comparable import label
from compress.report.columns import COLUMNS, Cell, Head, asked
from compress.report.compare import final_row, in_words, measured_on
from compress.report.html.blocks import Block, Facts, Page, Plots, Prose, Section, Source, Table
from compress.report.html.charts import short
from compress.report.html.pareto import Point, pareto_plot
from compress.report.html.run_page import reproduce, stage_table
from compress.report.html.stage_plots import accuracy_plot, latency_plot, size_plot
from compress.report.text import DASH, runs_text
from compress.results.report import Report

__all__ = ["compare_page"]

_KIB = 1024
_LONGEST_VALUE = 80

_FRONT = (
    "Numbers are those of the runs above. Filled points, joined by a line, are the front: no other run is at least as "
    "good in both respects and better in one. Latencies are compared within one runtime and setting only."
)


def compare_page(reports: Sequence[Report], failures: Sequence[tuple[str, str]] = ()) -> Page:
    """Runs in the order given, numbered from 1; `failures` are what was asked and the error."""
    sections = [
        Section("runs", "What each run delivers", _delivered(reports)),
        Section("failed", "Failed", _failed(failures)),
        Section("trade", "Trade-offs", _trade_offs(reports)),
        Section("side-by-side", "Side by side", _side_by_side(reports)),
        Section("differences", "What differs in the configuration", _differences(reports)),
    ]
    same = set(reports[0].overrides).intersection(*(report.overrides for report in reports))
    sections += [_run_section(number, report, same) for number, report in enumerate(reports, start=1)]
    failed = f", {len(failures)} failed" if failures else ""
    targets = ", ".join(dict.fromkeys(report.target_title for report in reports))
    return Page(f"{runs_text(len(reports))} compared", f"{targets}{failed}.", (), sections)


def _delivered(reports: Sequence[Report]) -> list[Block]:
    columns = [column for column in COLUMNS if True in column.widths]
    heads = [Head("run", words=True), Head("target", "asked", words=True), *(column.head for column in columns)]
    rows = []
    for number, report in enumerate(reports, start=1):
        row = final_row(report.measurements)
        run = Cell(report.target, " ".join(asked(report)) or "defaults")
        rows.append([Cell(str(number)), run, *(column.cell(row) for column in columns)])
    blocks: list[Block] = [Table("The last file each run exported", heads, rows)]
    hosts = dict.fromkeys(measured_on(report) for report in reports)
    return [*(Prose(f"{host[0].upper()}{host[1:]}.") for host in hosts), *blocks]


def _failed(failures: Sequence[tuple[str, str]]) -> list[Block]:
    heads = [Head("asked", words=True), Head("error", words=True)]
    return [Table("No result", heads, [[Cell(what), Cell(why)] for what, why in failures])] if failures else []


def _trade_offs(reports: Sequence[Report]) -> list[Block]:
    """Size and latency against accuracy, where at least two runs have them."""
    known = [
        (number, report, row, 100 * row.accuracy.top1)
        for number, report, row in _final_rows(reports)
        if row.accuracy is not None
    ]
    files = [Point(number, row.size_bytes / _KIB, top1) for number, _, row, top1 in known if row.size_bytes]
    packed = [Point(number, row.size_gzip_bytes / _KIB, top1) for number, _, row, top1 in known if row.size_gzip_bytes]
    times = [
        Point(number, row.latency.median_ms, top1, _setting(report, row, row.latency))
        for number, report, row, top1 in known
        if row.latency and not label(row, "latency")
    ]
    asked_for = (
        ("size", "Size against accuracy", "KiB", files),
        ("gzip", "Compressed size against accuracy", "KiB, gzip", packed),
        ("latency", "Host latency against accuracy", "ms", times),
    )
    plots = [
        pareto_plot(f"pareto-{name}", title, unit, "top-1 %", points)
        for name, title, unit, points in asked_for
        if len(points) > 1
    ]
    return [Prose(_FRONT), Plots(plots)] if plots else []


def _setting(report: Report, row: Measurement, latency: Latency) -> str:
    """Setting that two latencies must have in common to be compared."""
    threads = f"{latency.threads} thread{'s' * (latency.threads > 1)}"
    return f"{row.runtime}, {threads}, {report.host.label}"


def _side_by_side(reports: Sequence[Report]) -> list[Block]:
    rows = [replace(row, stage=f"{number} {report.target}") for number, report, row in _final_rows(reports)]
    return [Plots([size_plot(rows), latency_plot(rows), accuracy_plot(rows)])]


def _differences(reports: Sequence[Report]) -> list[Block]:
    """Keys of the configuration that are not the same in all runs, and versions and hosts likewise."""
    flat = [_flat(report) for report in reports]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    differing = [key for key in keys if len({settings.get(key, DASH) for settings in flat}) > 1]
    if not differing:
        return []
    heads = [Head("setting", words=True), *(Head(f"run {number}", words=True) for number in range(1, len(flat) + 1))]
    rows = [[Cell(key), *(Cell(settings.get(key, DASH)) for settings in flat)] for key in differing]
    return [Table("Settings that are not the same in all runs", heads, rows)]


def _flat(report: Report) -> dict[str, str]:
    """`stage.magnitude.amount` -> `0.3`."""
    found = {"host": report.host.label, **{f"version of {name}": text for name, text in report.versions.items()}}
    _collect("", report.config, found)
    return {key: short(text, _LONGEST_VALUE) for key, text in found.items()}


def _collect(prefix: str, node: Mapping[str, JsonValue], found: dict[str, str]) -> None:
    for key, value in node.items():
        if isinstance(value, dict) and value:
            _collect(f"{prefix}{key}.", value, found)
        else:
            found[f"{prefix}{key}"] = json.dumps(value, ensure_ascii=False)


def _run_section(number: int, report: Report, same: Collection[str]) -> Section:
    """One run, titled by what the others were not asked for."""
    title = f"Run {number}: {' '.join(part for part in report.overrides if part not in same) or report.target}"
    command = next(block for block in reproduce(report) if isinstance(block, Source))
    facts = Facts([(name, sentence) for name, sentence in in_words(report.measurements) if sentence])
    return Section(f"run-{number}", short(title, _LONGEST_VALUE), [stage_table(report.measurements), facts, command])


def _final_rows(reports: Sequence[Report]) -> list[tuple[int, Report, Measurement]]:
    return [(number, report, final_row(report.measurements)) for number, report in enumerate(reports, start=1)]
