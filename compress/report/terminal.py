"""The report on a terminal of 80 columns or more; plain text when piped, no colour with `NO_COLOR`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from compress.report.compare import (
    SLOWER,
    budget_lines,
    budget_word,
    final_row,
    grouped_notes,
    in_words,
    left_out_notes,
    measured_on,
    slower_lines,
    warnings,
)
from compress.report.devices import device_notes, devices_table, estimate_lines
from compress.report.tables import FULL_WIDTH, changes_table, comparison_table, drift_table, measurements_table
from compress.report.text import seconds_text
from compress.results.report import Report

__all__ = ["console", "print_comparison", "print_run", "print_verdict", "run_heading", "run_view"]

_NARROW = "runtimes, MACs and parameters need 100 columns; they are in report.json"


def console() -> Console:
    """A console on standard output; 100 columns when piped, unless `COLUMNS` says otherwise."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")  # a log that cannot hold a dash must not stop a run
    terminal = Console(highlight=False)
    sized = terminal.file.isatty() or os.environ.get("COLUMNS", "").isdigit()
    return terminal if sized else Console(highlight=False, width=FULL_WIDTH)


def print_run(console: Console, report: Report, folder: Path) -> None:
    """Print one run: the measurements, the changes, what they mean, the reasons for gaps, and where the files are."""
    console.print(run_view(report, console.width))
    console.print(Text(f"results in {folder}"), soft_wrap=True)
    if (folder / "report.html").is_file():
        console.print(Text(f"report in {folder / 'report.html'}"), soft_wrap=True)


def print_verdict(console: Console, report: Report, folder: Path) -> None:
    """Print one run on one line: what it delivers against the source, and where it lies."""
    rows = report.measurements
    row = final_row(rows)
    verdict = next((sentence for stage, sentence in in_words(rows) if stage == row.stage), "nothing was changed")
    doubts = "".join(f"warning: {about}: " for about, _ in warnings(report))
    budget = "".join(f"; budget {word}" for word in dict.fromkeys(map(budget_word, report.budget)))
    console.print(Text(f"{report.target}: {doubts}{row.stage}: {verdict}{budget}: {folder}"), soft_wrap=True)


def run_heading(console: Console, overrides: Sequence[str], number: int, total: int, seconds: float) -> None:
    """Print what run `number` (from 0) of a multirun is, and how long the rest takes if it goes on as so far."""
    left = f", about {seconds_text(seconds / number * (total - number))} left" if number else ""
    console.rule(Text(f"{number + 1} of {total}{left}: {' '.join(overrides)}"))


def print_comparison(console: Console, reports: Sequence[Report]) -> None:
    """Print one row per run of a multirun; nothing when no run finished."""
    if not reports:
        return
    console.print(Text(f"\n{len(reports)} runs: what each one delivers", style="bold"))
    console.print(comparison_table(reports, console.width))
    runtimes = {final_row(report.measurements).runtime for report in reports}
    if len(runtimes) > 1:
        console.print(Text("\nlatencies of different runtimes are not comparable with each other", style="dim"))


def run_view(report: Report, width: int) -> RenderableType:
    """Everything about one run, for a console of `width` columns."""
    rows = report.measurements
    parts: list[RenderableType] = [
        Text.assemble("\n", (report.target, "bold"), f"  {report.target_title}"),
        Text(measured_on(report), style="dim"),
        *(Text(f"warning: {about} {sentence}", style="bold yellow") for about, sentence in warnings(report)),
        Text(),
        measurements_table(rows, width),
        *([] if width >= FULL_WIDTH else [Text(_NARROW, style="dim")]),
        Text(),
    ]
    if len(rows) > 1:
        parts += [Text("Changes", style="bold"), changes_table(rows), Text()]
        parts += [Text("In words", style="bold"), _listed(in_words(rows))]
    if report.budget:
        parts += [Text("Accuracy budget", style="bold"), _listed(budget_lines(report.budget))]
    if report.slower:
        parts += [Text(SLOWER, style="bold"), _listed(slower_lines(report.slower))]
    if report.drift:
        title = "Drift of the exported INT8 files from the INT8 graph in PyTorch"
        parts += [Text(title, style="bold"), drift_table(report.drift), Text()]
    if report.estimates:
        parts += [
            Text("Estimate for the device (not measured)", style="bold"),
            _listed(estimate_lines(report.estimates)),
        ]
    if report.devices:
        parts += [Text("Measured on the device itself", style="bold"), devices_table(report.devices), Text()]
        parts.append(_listed(device_notes(report.devices)))
    notes = [*left_out_notes(report), *grouped_notes(rows)]
    if notes:
        parts += [Text("Notes", style="bold"), _listed(notes)]
    parts.append(Text(f"whole run {seconds_text(report.wall_seconds)}, measuring included", style="dim"))
    return Group(*parts)


def _listed(entries: Iterable[tuple[str, str]]) -> RenderableType:
    """Names in one column, sentences wrapped in the next."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, overflow="fold")
    grid.add_column(overflow="fold")
    for name, sentence in entries:
        grid.add_row(Text(name), Text(sentence))
    return Padding(grid, (0, 0, 1, 0))
