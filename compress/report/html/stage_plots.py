"""Size, latency and accuracy after every stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compress.core.measurement import Latency, Measurement
from compress.measure.comparable import label
from compress.report.html.charts import (
    Margins,
    axes,
    label_rows,
    legend,
    legend_height,
    listed,
    not_measured,
    padded_limits,
    plain_numbers,
    rows_height,
    unit_axis,
)
from compress.report.html.plot import Plot
from compress.report.text import bytes_text, ms_text, percent_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from compress.report.html.palette import Palette

__all__ = ["accuracy_plot", "latency_plot", "size_plot"]

_FOR_TEXT = 1.34  # length of the axis over the longest bar, for the number behind it
_FAR_APART = 8  # times between medians, from where the small ones could not be told apart on a linear axis
_KIB = 1024


def size_plot(rows: Sequence[Measurement]) -> Plot:
    """File size and its gzip, a pair of bars per stage."""

    def draw(figure: Figure, palette: Palette) -> None:
        on = _rows_of(figure, rows, top=legend_height(2))
        for place, row in enumerate(rows):
            if row.size_bytes is None:
                not_measured(on, place, _reason(row, "size_bytes"), palette)
                continue
            _bar(on, place - 0.18, row.size_bytes / _KIB, bytes_text(row.size_bytes), palette.blue)
            if row.size_gzip_bytes is not None:
                _bar(on, place + 0.18, row.size_gzip_bytes / _KIB, bytes_text(row.size_gzip_bytes), palette.teal)
        sizes = [size for row in rows for size in (row.size_bytes, row.size_gzip_bytes) if size is not None]
        on.set_xlim(0, _FOR_TEXT * max(sizes, default=_KIB) / _KIB)
        unit_axis(on, "KiB")
        legend(on, [("file", palette.blue), ("gzip", palette.teal)])

    words = listed([f"{row.stage} {bytes_text(row.size_bytes)}" for row in rows])
    alt = f"Bars: file size after every stage. {words}."
    return Plot("size", "Size", alt, draw, rows_height(len(rows), 38, 44 + legend_height(2)))


def latency_plot(rows: Sequence[Measurement]) -> Plot:
    """Median host latency to the 90th percentile; a colour per runtime, as only those compare with each other."""
    runtimes = list(dict.fromkeys(row.runtime for row in rows if row.latency))
    medians = [row.latency.median_ms for row in rows if row.latency]
    logarithmic = bool(medians) and 0 < _FAR_APART * min(medians) < max(medians)

    def draw(figure: Figure, palette: Palette) -> None:
        on = _rows_of(figure, rows, top=legend_height(len(runtimes)))
        for place, row in enumerate(rows):
            if row.latency is None:
                not_measured(on, place, _reason(row, "latency"), palette)
                continue
            colour = palette.series[runtimes.index(row.runtime) % len(palette.series)]
            mark = label(row, "latency")
            text = ms_text(row.latency.median_ms) + (f" {mark}" if mark else "")
            _bar(on, place, row.latency.median_ms, text, colour, height=0.5, dashed=mark is not None, up_to=row.latency)
            if not mark:
                span = [row.latency.median_ms, row.latency.p90_ms]
                on.plot(span, [place, place], color=colour, linewidth=1.5, solid_capstyle="butt")
        longest = max((row.latency.p90_ms for row in rows if row.latency), default=1.0)
        if logarithmic:
            on.set_xscale("log")
            plain_numbers(on.xaxis)
            on.set_xlim(min(medians) / 2, longest * (longest / min(medians)) ** (_FOR_TEXT - 1))
        else:
            on.set_xlim(0, _FOR_TEXT * longest)
        unit_axis(on, f"ms on this host{', logarithmic' * logarithmic}: median, line to the 90th percentile")
        colours = [palette.series[place % len(palette.series)] for place in range(len(runtimes))]
        legend(on, list(zip(runtimes, colours, strict=True)))

    words = listed([f"{row.stage} {_milliseconds(row)}" for row in rows])
    alt = f"Bars: median latency on the host after every stage, coloured by runtime. {words}."
    return Plot("latency", "Host latency", alt, draw, rows_height(len(rows), extra=44 + legend_height(len(runtimes))))


def accuracy_plot(rows: Sequence[Measurement]) -> Plot:
    """Top-1 with its 95 % interval; dots, because the axis does not begin at zero."""

    def draw(figure: Figure, palette: Palette) -> None:
        on = _rows_of(figure, rows, right=62)
        for place, row in enumerate(rows):
            if row.accuracy is None:
                not_measured(on, place, _reason(row, "accuracy"), palette)
                continue
            found = row.accuracy
            doubtful = label(row, "accuracy") is not None
            colour = palette.amber if doubtful else palette.blue
            on.plot([100 * found.low, 100 * found.high], [place, place], color=colour, linewidth=2)
            on.plot([100 * found.top1], [place], "o", color=colour, markersize=6)
            text = percent_text(found.top1) + (" ?" if doubtful else "")
            on.text(1.03, place, text, color=palette.ink, va="center", transform=on.get_yaxis_transform())
        known = [row.accuracy for row in rows if row.accuracy]
        low, high = min((f.low for f in known), default=0.0), max((f.high for f in known), default=1.0)
        on.set_xlim(*padded_limits(100 * low, 100 * high))
        unit_axis(on, "top-1 %, with the 95 % interval")

    words = listed([f"{row.stage} {percent_text(row.accuracy.top1 if row.accuracy else None)} %" for row in rows])
    alt = f"Dots with 95 % intervals: top-1 accuracy after every stage. {words}."
    return Plot("accuracy", "Top-1 accuracy", alt, draw, rows_height(len(rows)))


def _rows_of(figure: Figure, rows: Sequence[Measurement], *, right: float = 14, top: float = 8) -> Axes:
    stages = [row.stage for row in rows]
    on = axes(figure, Margins.for_labels(stages, right=right, top=top))
    label_rows(on, stages)
    return on


def _bar(
    on: Axes,
    place: float,
    length: float,
    text: str,
    colour: str,
    *,
    height: float = 0.32,
    dashed: bool = False,
    up_to: Latency | None = None,
) -> None:
    """A bar with its number behind it; one that is not a plain measurement is only outlined."""
    fill = "none" if dashed else colour
    on.barh([place], [length], height, color=fill, edgecolor=colour, linewidth=1, linestyle="--" if dashed else "-")
    end = max(length, up_to.p90_ms) if up_to and not dashed else length
    on.annotate(text, (end, place), (5, 0), textcoords="offset points", va="center", fontsize=10)


def _milliseconds(row: Measurement) -> str:
    if row.latency is None:
        return "not measured"
    mark = label(row, "latency")
    return f"{ms_text(row.latency.median_ms)} ms" + (f" ({mark})" if mark else "")


def _reason(row: Measurement, quantity: str) -> str:
    why = row.why_absent(quantity)
    return f"not measured: {why}" if why else "not measured"
