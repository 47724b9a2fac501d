"""The page about one run: a function per section, each empty where the run has nothing to say."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from compress.core.measurement import Measurement
from compress.measure.comparable import comparable_latency, time_ratio
from compress.measure.ranges import TensorRange
from compress.profile.document import Profile, find_profile
from compress.report.columns import (
    CHANGES,
    COLUMNS,
    DRIFT,
    Cell,
    Column,
    Head,
    change_rows,
    device_heads,
    device_rows,
    drift_rows,
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
from compress.report.html.blocks import Block, Facts, Page, Plots, Prose, Section, Source, Table, Tile
from compress.report.html.drift_plot import drift_plot
from compress.report.html.layer_plots import scan_plot, sparsity_plot
from compress.report.html.range_plots import range_plot
from compress.report.html.roofline_plot import roofline_plot
from compress.report.html.scans import Scan, read_scans
from compress.report.html.stage_plots import accuracy_plot, latency_plot, size_plot
from compress.report.html.time_plot import time_plot
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
from compress.results.report import Report

__all__ = ["RunData", "read_run", "reproduce", "run_page", "stage_table"]

_SHOWN = 6
"""Histograms that are seen without asking."""
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # libyaml where PyYAML was built with it: ten times faster


@dataclass(frozen=True)
class RunData:
    """Everything a run folder holds for the page."""

    report: Report
    scans: tuple[Scan, ...] = ()
    profile: Profile | None = None


def read_run(report: Report, folder: Path) -> RunData:
    """The report and what stages left beside it.

    Raises:
        ConfigError: a scan or a profile is damaged.
    """
    return RunData(report, read_scans(folder), find_profile(folder))


def run_page(run: RunData) -> Page:
    """The page about one run."""
    report = run.report
    notes = [*left_out_notes(report), *grouped_notes(report.measurements)]
    sections = (
        Section("warnings", "Warning", [Facts(doubts)] if (doubts := warnings(report)) else []),
        Section("stages", "Stages", _stages(report)),
        Section("figures", "Size, latency, accuracy", _figures(report.measurements)),
        Section("device", "On the device", _device(report)),
        Section("profile", "Where the time goes", _profile(run.profile)),
        Section("layers", "Layers", _layers(report.measurements, run.scans)),
        Section("ranges", "INT8 ranges", _ranges(report.ranges)),
        Section("drift", "Drift", _drift(report)),
        Section("notes", "Notes", [Facts(notes)] if notes else []),
        Section("reproduce", "Reproduce", reproduce(report)),
    )
    return Page(report.target_title, _subtitle(report), _tiles(report.measurements), sections)


def stage_table(rows: Sequence[Measurement]) -> Table:
    """Every quantity after every stage."""
    columns = _full_columns()
    heads = [Head("stage", "time", words=True), *(column.head for column in columns)]
    cells = [[stage_cell(row), *(column.cell(row) for column in columns)] for row in rows]
    return Table("After every stage", heads, cells)


def reproduce(report: Report) -> list[Block]:
    """The command, and everything the result depends on."""
    command = f"python -m compress {shlex.join(report.overrides)}"
    git = report.commit or "outside a repository"
    host = report.host
    facts = [
        ("made", f"{report.created}, in {seconds_text(report.wall_seconds)}"),
        ("seed", str(report.seed)),
        ("repository", git),
        (
            "host",
            f"{host.label}, {host.cores} cores, {host.memory_bytes / 2**30:.1f} GiB, {host.os}, Python {host.python}",
        ),
        ("versions", ", ".join(f"{name} {version}" for name, version in report.versions.items())),
    ]
    splits = [[Cell(name), Cell(str(split.samples)), Cell(split.sha256)] for name, split in report.splits.items()]
    files = [[Cell(file.path), Cell(bytes_text(file.size_bytes)), Cell(file.sha256)] for file in report.files]
    digest = Head("SHA-256", words=True)
    blocks: list[Block] = [Source("Command", command), Facts(facts)]
    if splits:
        heads = [Head("split", words=True), Head("samples"), digest]
        blocks.append(Table(f"Data: {report.classes} classes, {len(splits)} splits", heads, splits, folded=True))
    if files:
        heads = [Head("file", words=True), Head("size"), digest]
        blocks.append(Table(f"{len(files)} files", heads, files, folded=True))
    config = yaml.dump(dict(report.config), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return [*blocks, Source("Configuration", config, folded=True)]


def _full_columns() -> list[Column]:
    return [column for column in COLUMNS if True in column.widths]


def _subtitle(report: Report) -> str:
    where = measured_on(report)
    return f"{report.target}, {report.created[:16].replace('T', ' ')}. {where[0].upper()}{where[1:]}."


def _tiles(rows: Sequence[Measurement]) -> list[Tile]:
    """Tiles of what is delivered against what came in."""
    source, last = rows[0], final_row(rows)
    base = comparable_latency(rows, last)
    top1, before = (row.accuracy.top1 if row.accuracy else None for row in (last, source))
    tiles = [
        Tile(
            f"Size of {last.stage}",
            bytes_text(last.size_bytes),
            f"source {bytes_text(source.size_bytes)}",
            change_text(last.size_bytes, source.size_bytes),
        ),
        Tile("Host latency", DASH, last.why_absent("latency") or "not measured"),
        Tile(
            "Top-1 accuracy",
            f"{percent_text(top1)} %" if top1 is not None else DASH,
            f"source {percent_text(before)} %",
            _points(top1, before),
        ),
    ]
    if last.latency is not None:
        against = (
            f"{base.stage} {ms_text(base.latency.median_ms)} ms"
            if base and base.latency
            else "nothing before it ran in this runtime"
        )
        ratio = time_ratio(last, base) if base else None
        speed = "" if ratio is None else speed_text(ratio, 1) + (", raced" if last.race else "")
        tiles[1] = Tile("Host latency", f"{ms_text(last.latency.median_ms)} ms", against, speed)
    if last.fidelity is not None:
        sqnr = f"SQNR {decibel_text(last.fidelity.sqnr_db)}"
        tiles.append(Tile("Agrees with the source", f"{percent_text(last.fidelity.agreement)} %", sqnr))
    return tiles


def _points(new: float | None, old: float | None) -> str:
    points = points_text(new, old)
    return "unchanged" if points == "same" else f"{points} points" if points != DASH else ""


def _stages(report: Report) -> list[Block]:
    rows = report.measurements
    blocks: list[Block] = [stage_table(rows)]
    if report.budget:
        blocks += [Prose("Accuracy budget:"), Facts(budget_lines(report.budget))]
    if report.slower:
        blocks += [Prose(f"{SLOWER}:"), Facts(slower_lines(report.slower))]
    if len(rows) > 1:
        blocks.append(Facts([pair for pair in in_words(rows) if pair[1]]))
        blocks.append(Table("Changes against the stage before and the source", CHANGES, _named(rows), folded=True))
    return blocks


def _named(rows: Sequence[Measurement]) -> list[tuple[Cell, ...]]:
    """The changes, every row with its stage: a screen reader meets rows one by one."""
    named, stage = [], ""
    for first, *others in change_rows(rows):
        stage = first.value or stage
        named.append((Cell(stage), *others))
    return named


def _figures(rows: Sequence[Measurement]) -> list[Block]:
    return [Plots([size_plot(rows), latency_plot(rows), accuracy_plot(rows)])]


def _layers(rows: Sequence[Measurement], scans: Sequence[Scan]) -> list[Block]:
    with_zeros = [row for row in rows if row.sparsity and row.sparsity.per_layer and row.sparsity.zeros]
    chosen = final_row(with_zeros) if with_zeros else None
    plots, tables = [], []
    if chosen and chosen.sparsity:
        plots.append(sparsity_plot(chosen.stage, chosen.sparsity.per_layer))
        cells = [(Cell(name), Cell(percent_text(share))) for name, share in chosen.sparsity.per_layer.items()]
        tables.append(
            Table(f"Zeros per layer, {chosen.stage}", [Head("layer", words=True), Head("zeros", "%")], cells, True)
        )
    for scan in scans:
        plots.append(scan_plot(scan))
        tables.append(_scan_table(scan))
    return [Plots(plots), *tables] if plots else []


def _scan_table(scan: Scan) -> Table:
    layer = Head("layer", words=True)
    if scan.quantize:
        heads = [layer, Head("SQNR"), Head("top-1 changed", "%"), Head("weights"), Head("MACs")]
        rows = [
            [
                Cell(row.layer),
                Cell(decibel_text(row.sqnr_db)),
                Cell(percent_text(row.top1_changed)),
                Cell(bytes_text(row.weight_bytes)),
                Cell(count_text(row.macs)),
            ]
            for row in scan.quantize
        ]
        return Table(f"{scan.stage}: each layer alone in INT8", heads, rows, folded=True)
    heads = [layer, *(Head(f"{share:.0%}") for share in scan.prune[0].shares)]
    rows = [[Cell(curve.layer), *(Cell(f"{change:+.1f}") for change in curve.changes)] for curve in scan.prune]
    return Table(f"{scan.stage}: points of top-1 when each layer alone is pruned", heads, rows, folded=True)


def _ranges(ranges: Sequence[TensorRange]) -> list[Block]:
    if not ranges:
        return []
    worst = sorted((row for row in ranges if row.histogram), key=lambda row: row.sqnr_db)
    plots = [plot for number, row in enumerate(worst) if (plot := range_plot(row, number))]
    samples = max(row.samples for row in ranges)
    text = (
        f"Counts of values on a logarithmic axis; the shaded band is what the 8-bit integers span. The {len(plots)} of "
        f"{len(ranges)} tensors that rounding and clipping cost most, worst first; activations on {samples} "
        "calibration images, weights as stored."
    )
    heads = [Head("tensor", words=True), Head("kind", "scales", words=True), Head("range"), Head("seen")]
    heads += [Head("clipped", "%"), Head("SQNR")]
    rows = [
        [
            Cell(row.name),
            Cell(row.kind, str(row.channels)),
            Cell(f"{row.low:.4g} … {row.high:.4g}"),
            Cell(f"{row.seen_low:.4g} … {row.seen_high:.4g}"),
            Cell(percent_text(row.clipped)),
            Cell(decibel_text(row.sqnr_db)),
        ]
        for row in ranges
    ]
    return [
        Prose(text),
        Plots(plots, small=True),
        Table(f"Ranges of all {len(ranges)} tensors", heads, rows, folded=True),
    ]


def _drift(report: Report) -> list[Block]:
    if not report.drift:
        return []
    text = "Each exported INT8 file in its own runtime against the INT8 graph in PyTorch that it was made from."
    table = Table("Drift of the exported files", DRIFT, list(drift_rows(report.drift)))
    return [Prose(text), Plots([drift_plot(report.drift)]), table]


def _device(report: Report) -> list[Block]:
    blocks: list[Block] = []
    if report.devices:
        heads, rows = device_heads(report.devices), list(device_rows(report.devices))
        blocks += [
            Table("Measured on the device itself", heads, rows),
            Facts(device_notes(report.devices)),
        ]
    if report.estimates:
        blocks += [Prose("Estimated for the device, not measured:"), Facts(estimate_lines(report.estimates))]
    return blocks


def _profile(profile: Profile | None) -> list[Block]:
    if profile is None:
        return []
    model, roof = profile.model, profile.roofline
    facts = [
        ("file", f"{profile.file}: {profile.runtime}, threads {profile.threads}, batch {profile.batch}"),
        ("machine", f"{profile.device}; {roof.peak_gflops:.4g} GFLOP/s, {roof.bandwidth_gb_s:.4g} GB/s, {roof.source}"),
        ("time", f"{ms_text(model.measured_ms)} ms measured, layers sum to {ms_text(model.sum_ms)} ms"),
        ("bottleneck", f"{model.bottleneck}: {model.advice}"),
    ]
    heads = [Head("layer", "operator", words=True), Head("time", "ms"), Head("share", "%"), Head("operations", "bytes")]
    heads += [Head("per byte"), Head("bottleneck", "what to do", words=True)]
    rows = [
        [
            Cell(layer.name, layer.op),
            Cell(ms_text(layer.median_ms)),
            Cell(percent_text(layer.share)),
            Cell(count_text(layer.operations), bytes_text(layer.bytes)),
            Cell(DASH if layer.intensity is None else f"{layer.intensity:.3g}"),
            Cell(layer.bottleneck, layer.advice),
        ]
        for layer in profile.layers
    ]
    plots = [plot for plot in (roofline_plot(profile), time_plot(profile)) if plot]
    table = Table(f"{len(rows)} layers", heads, rows, folded=len(rows) > _SHOWN)
    return [Facts(facts), *([Plots(plots)] if plots else []), table]
