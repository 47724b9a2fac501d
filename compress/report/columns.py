"""The report's tables as plain cells; the terminal, the page and the Markdown file each give them their own form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from compress.core.errors import one_line
from compress.core.measurement import Measurement
from compress.measure.comparable import label, time_ratio, why_not_comparable
from compress.measure.drift import Drift
from compress.report.compare import feed_of
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
from compress.results.device import DeviceRow, DeviceRun
from compress.results.energy import energy
from compress.results.report import Report

__all__ = ["CHANGES", "COLUMNS", "DRIFT", "Cell", "Column", "Head", "asked", "change_rows", "device_heads"]
__all__ += ["device_rows", "drift_rows", "run_cells", "stage_cell"]


@dataclass(frozen=True)
class Cell:
    """A value, a detail that belongs to it, and a word of caution or provenance that must be seen; each as one line."""

    value: str
    detail: str = ""
    mark: str = ""

    def __post_init__(self) -> None:
        for name in ("value", "detail", "mark"):  # names come from reports and devices of strangers
            object.__setattr__(self, name, one_line(getattr(self, name)))


@dataclass(frozen=True)
class Head:
    """Title of a column, and what its cells' details are; `words` stand left, numbers right."""

    title: str
    subtitle: str = ""
    words: bool = False


@dataclass(frozen=True)
class Column:
    """A quantity of a row.

    Attributes:
        head: see there.
        cell: makes its cell.
        widths: whether it shows on a full console (True in it) and on a narrow one (False in it).
    """

    head: Head
    cell: Callable[[Measurement], Cell]
    widths: tuple[bool, ...] = (True, False)


def stage_cell(row: Measurement) -> Cell:
    """The stage, how long it took, and whether an earlier run did it."""
    return Cell(row.stage, seconds_text(row.seconds) if row.seconds is not None else "", "reused" if row.reused else "")


def precision_text(row: Measurement) -> str:
    """The arithmetic of most of the work: a file that keeps more than half of it in float is not called int8."""
    return str(row.precision) if row.integers is None or row.integers.mostly else "mostly float"


def _format(row: Measurement) -> Cell:
    return Cell(f"{row.format} {precision_text(row)}", row.runtime)


def _format_narrow(row: Measurement) -> Cell:
    return Cell(str(row.format), precision_text(row))


def _size(row: Measurement) -> Cell:
    return Cell(bytes_text(row.size_bytes), bytes_text(row.size_gzip_bytes), label(row, "size_bytes") or "")


def _zeros(row: Measurement) -> Cell:
    return Cell(percent_text(row.sparsity.fraction if row.sparsity else None))


def _macs(row: Measurement) -> Cell:
    return Cell(count_text(row.macs), count_text(row.parameters), label(row, "macs") or "")


def _latency(row: Measurement) -> Cell:
    if row.latency is None:
        return Cell(DASH)
    value = f"{ms_text(row.latency.median_ms)} ({ms_text(row.latency.p90_ms)})"
    return Cell(value, mark=label(row, "latency") or "")


def _accuracy(row: Measurement) -> Cell:
    if row.accuracy is None:
        return Cell(DASH)
    interval = f"{percent_text(row.accuracy.low)}–{percent_text(row.accuracy.high)}"
    return Cell(percent_text(row.accuracy.top1), interval, label(row, "accuracy") or "")


def _fidelity(row: Measurement) -> Cell:
    if row.fidelity is None:
        return Cell(DASH)
    return Cell(percent_text(row.fidelity.agreement), decibel_text(row.fidelity.sqnr_db))


COLUMNS = (
    Column(Head("format", "runtime", words=True), _format, (True,)),
    Column(Head("format", "precision", words=True), _format_narrow, (False,)),
    Column(Head("size", "gzip"), _size),
    Column(Head("zeros", "%"), _zeros),
    Column(Head("MACs", "params"), _macs, (True,)),
    Column(Head("host latency", "ms p50 (p90)"), _latency),
    Column(Head("top-1 %", "95 %"), _accuracy),
    Column(Head("agree %", "SQNR"), _fidelity),
)

CHANGES = (
    Head("stage", words=True),
    Head("against", words=True),
    *map(Head, ("size", "gzip")),
    Head("host latency", "raced"),
    Head("top-1 points"),
)

DRIFT = (
    Head("file", "runtime", words=True),
    Head("against", words=True),
    Head("largest", "LSB"),
    Head("mean", "LSB"),
    Head("agree %", "images"),
    Head("one LSB", "taken from"),
)

_DEVICES = (
    Head("device", words=True),
    Head("model", words=True),
    Head("runtime", words=True),
    *map(Head, ("threads", "batch", "ms p50 (p90)", "n", "peak RSS")),
)
_ENERGY = Head("mJ per image (95 %)", words=True)
_OUTPUTS = Head("golden outputs", words=True)


def change_rows(rows: Sequence[Measurement]) -> Iterator[tuple[Cell, ...]]:
    """Each stage after the source against the stage whose output it took, and against the source.

    The first cell of a stage's second row is empty.
    """
    for row in rows[1:]:
        compared = dict.fromkeys([(feed_of(rows, row) or rows[0]).stage, rows[0].stage])
        for place, stage in enumerate(compared):
            old = next(earlier for earlier in rows if earlier.stage == stage)
            yield tuple(map(Cell, ("" if place else row.stage, stage, *_changes(row, old))))


def drift_rows(drifts: Sequence[Drift]) -> Iterator[tuple[Cell, ...]]:
    """Each exported INT8 file against the graph it was made from; differences in steps (LSB) of the output."""
    for drift in drifts:
        yield (
            Cell(drift.stage, drift.runtime),
            Cell(drift.reference, "torch"),
            Cell(f"{drift.max_lsb:.2f}"),
            Cell(f"{drift.mean_lsb:.3f}"),
            Cell(percent_text(drift.agreement), str(drift.samples)),
            Cell(f"{drift.lsb:.3g}", drift.lsb_from),
        )


def device_heads(runs: Sequence[DeviceRun]) -> tuple[Head, ...]:
    """The columns of `device_rows`: energy is one of them where a board metered its power."""
    return (*_DEVICES, *([_ENERGY] if _metered(runs) else []), _OUTPUTS)


def device_rows(runs: Sequence[DeviceRun]) -> Iterator[tuple[Cell, ...]]:
    """One row per model, thread count and batch size of every device."""
    metered = _metered(runs)
    for run in runs:
        for row in run.result.results:
            name = Cell(run.name, mark="emulated" if run.result.device.emulated else "")
            asked = (row.stage, row.runtime or DASH, str(row.threads), str(row.batch))
            *figures, outputs = _figures(row)
            yield name, *map(Cell, asked), *figures, *([_energy(row)] if metered else []), outputs


def _metered(runs: Sequence[DeviceRun]) -> bool:
    return any(energy(row) is not None for run in runs for row in run.result.results)


def _energy(row: DeviceRow) -> Cell:
    spent = energy(row)
    if spent is None:
        return Cell(DASH)
    interval = "" if spent.low_mj is None else f" ({ms_text(spent.low_mj)}–{ms_text(spent.high_mj)})"
    count = "" if spent.readings is None else f", n={spent.readings}"
    return Cell(f"{ms_text(spent.mj)}{interval}{count}, {spent.rail}")


def run_cells(report: Report) -> Cell:
    """A run of several: its target, and what was asked of it."""
    return Cell(report.target, " ".join(asked(report)) or "defaults")


def asked(report: Report) -> list[str]:
    """Overrides that the user typed besides the target."""
    return [override for override in report.overrides if override != f"target={report.target}"]


def _figures(row: DeviceRow) -> tuple[Cell, Cell, Cell, Cell]:
    if row.latency is None or row.golden is None:
        return Cell(DASH), Cell(DASH), Cell(DASH), Cell("", mark=row.problem or "not measured")
    time = f"{ms_text(row.latency.median_ms)} ({ms_text(row.latency.p90_ms)})"
    off = "" if row.golden.max_abs_error is None else f", {row.golden.max_abs_error:.2g} off"
    close = "identical" if row.golden.identical else f"within tolerance{off}"
    return Cell(time), Cell(str(row.latency.runs)), Cell(bytes_text(row.peak_rss_bytes)), Cell(close)


def _changes(row: Measurement, old: Measurement) -> tuple[str, str, str, str]:
    points = points_text(_top1(row), _top1(old))
    sizes = change_text(row.size_bytes, old.size_bytes), change_text(row.size_gzip_bytes, old.size_gzip_bytes)
    ratio = time_ratio(row, old)
    return *sizes, why_not_comparable(row, old) or DASH if ratio is None else speed_text(ratio, 1), points


def _top1(row: Measurement) -> float | None:
    return row.accuracy.top1 if row.accuracy else None
