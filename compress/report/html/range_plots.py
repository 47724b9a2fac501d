"""Histograms of what was quantized, with the range that the integers span."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.measure.ranges import TensorRange
from compress.report.html.charts import Margins, axes, padded_limits, unit_axis
from compress.report.html.layer_plots import slug
from compress.report.html.plot import Plot
from compress.report.text import decibel_text, percent_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from compress.report.html.palette import Palette

__all__ = ["range_plot"]

_WIDTH, _HEIGHT = 290, 150
_FEWEST = 0.7  # of a count, where the logarithmic axis begins


def range_plot(found: TensorRange, number: int) -> Plot | None:
    """Counts of values on a logarithmic axis and the chosen range; None for a tensor without histogram."""
    histogram = found.histogram
    if histogram is None:
        return None
    clipped = "" if found.clipped is None else f", {percent_text(found.clipped)} % clipped"

    def draw(figure: Figure, palette: Palette) -> None:
        on = axes(figure, Margins(14, top=6, bottom=38))
        edges = [histogram.low + histogram.width * place for place in range(len(histogram.counts) + 1)]
        counts = [max(count, _FEWEST) for count in histogram.counts]
        on.axvspan(found.low, found.high, color=palette.teal, alpha=0.14, linewidth=0)
        colour = palette.blue if found.kind == "activation" else palette.violet
        on.fill_between(edges, [*counts, counts[-1]], _FEWEST, step="post", color=colour, linewidth=0)
        for end in (found.low, found.high):
            on.axvline(end, color=palette.teal, linewidth=1.5)
        on.set_yscale("log")
        on.set_ylim(_FEWEST, 2 * max(counts))
        on.set_xlim(*padded_limits(min(edges[0], found.low), max(edges[-1], found.high), 0.04))
        on.yaxis.set_visible(False)
        on.spines["left"].set_visible(False)
        unit_axis(on, f"SQNR {decibel_text(found.sqnr_db)}{clipped}")
        on.grid(visible=False)

    alt = (
        f"Histogram of the {found.kind} {found.name}, values {found.seen_low:.4g} to {found.seen_high:.4g}; "
        f"the chosen range is {found.low:.4g} to {found.high:.4g}{clipped}."
    )
    title = f"{found.name} ({found.kind})"
    return Plot(f"range-{number}-{slug(found.name)}", title, alt, draw, _HEIGHT, _WIDTH)
