"""Plots of what pruning and quantization do to each layer: zeros, and the two sensitivity scans."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from compress.report.html.charts import Margins, axes, label_rows, listed, rows_height, unit_axis
from compress.report.html.drift_plot import shade
from compress.report.html.plot import Plot
from compress.report.html.scans import PruneCurve, QuantizeRow, Scan
from compress.report.text import decibel_text, percent_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from compress.report.html.palette import Palette

__all__ = ["MOST_ROWS", "prune_plot", "quantize_plot", "scan_plot", "sparsity_plot"]

MOST_ROWS = 20
"""Layers a plot names; the table beneath it holds all of them."""

_ROW = 18
_FULL_POINTS = 20.0  # points of top-1 that have the full colour


def sparsity_plot(stage: str, per_layer: Mapping[str, float]) -> Plot:
    """Share of zeros of every layer of `stage`, in execution order; without names where they would not fit."""
    names, shares = list(per_layer), [100 * share for share in per_layer.values()]
    named = len(names) <= MOST_ROWS

    def draw_named(figure: Figure, palette: Palette) -> None:
        on = axes(figure, Margins.for_labels(names))
        label_rows(on, names)
        on.barh(range(len(names)), shares, 0.62, color=palette.blue)
        on.set_xlim(0, 100)
        unit_axis(on, "zeros among the weights, %")

    def draw_many(figure: Figure, palette: Palette) -> None:
        on = axes(figure, Margins(48))
        on.fill_between(range(len(shares) + 1), [*shares, shares[-1]], step="post", color=palette.blue, linewidth=0)
        on.set_xlim(0, len(shares))
        on.set_ylim(0, 100)
        unit_axis(on, "layer, in execution order")
        on.grid(axis="y")
        on.tick_params(axis="y", length=0, labelcolor=palette.muted)
        on.set_ylabel("zeros among the weights, %")

    words = listed([f"{name} {percent_text(share)} %" for name, share in per_layer.items()])
    alt = f"Bars: share of zeros of every layer after {stage}. {words}."
    height = rows_height(len(names), _ROW) if named else 240
    return Plot(f"sparsity-{slug(stage)}", f"Zeros per layer, {stage}", alt, draw_named if named else draw_many, height)


def scan_plot(scan: Scan, most: int = MOST_ROWS) -> Plot:
    """Plot of what a scan found, of `most` layers at most."""
    if scan.quantize:
        return quantize_plot(scan.stage, scan.quantize, most)
    return prune_plot(scan.stage, scan.prune, most)


def quantize_plot(stage: str, rows: Sequence[QuantizeRow], most: int = MOST_ROWS) -> Plot:
    """SQNR of the output with one layer in INT8: the most sensitive layers, worst first."""
    worst = sorted(rows, key=lambda row: row.sqnr_db)[:most]
    finite = [row.sqnr_db for row in worst if math.isfinite(row.sqnr_db)]
    longest = max([1.0, *finite])

    def draw(figure: Figure, palette: Palette) -> None:
        names = [row.layer for row in worst]
        on = axes(figure, Margins.for_labels(names))
        label_rows(on, names)
        for place, row in enumerate(worst):
            length = longest if row.sqnr_db == math.inf else max(0.0, row.sqnr_db) if row.sqnr_db > -math.inf else 0.0
            on.barh([place], [length], 0.62, color=palette.red if row.top1_changed > 0 else palette.blue)
            on.annotate(decibel_text(row.sqnr_db), (length, place), (4, 0), textcoords="offset points", va="center")
        on.set_xlim(0, 1.25 * longest)
        unit_axis(on, "SQNR of the output, dB; red: a top-1 changed")

    words = listed([f"{row.layer} {decibel_text(row.sqnr_db)}" for row in worst])
    alt = f"Bars: signal to quantization noise of the output when only one layer is in INT8, worst first. {words}."
    title = _title("Sensitivity to INT8", len(worst), len(rows))
    return Plot(f"int8-{slug(stage)}", title, alt, draw, rows_height(len(worst), _ROW))


def prune_plot(stage: str, curves: Sequence[PruneCurve], most: int = MOST_ROWS) -> Plot:
    """Change of top-1 per layer and share of zeros: the most sensitive layers, worst first."""
    worst = sorted(curves, key=lambda curve: sum(curve.changes))[:most]
    shares = worst[0].shares if worst else ()

    def draw(figure: Figure, palette: Palette) -> None:
        names = [curve.layer for curve in worst]
        on = axes(figure, Margins.for_labels(names, top=26, bottom=8))
        label_rows(on, names)
        on.set_xlim(-0.5, len(shares) - 0.5)
        on.set_xticks(range(len(shares)), [f"{share:.0%}" for share in shares])
        on.tick_params(axis="x", length=0, labeltop=True, labelbottom=False)
        on.spines["bottom"].set_visible(False)
        for place, curve in enumerate(worst):
            for column, change in enumerate(curve.changes):
                alpha = shade(-change, _FULL_POINTS)
                on.barh([place], [0.96], 0.9, left=[column - 0.48], color=palette.red, alpha=alpha, linewidth=0)
                text = f"{change:+.1f}".replace("-", "−")
                on.text(column, place, text, ha="center", va="center", fontsize=10)

    words = listed([f"{curve.layer} {curve.changes[-1]:+.1f} points at {shares[-1]:.0%}" for curve in worst])
    alt = f"Heat map: change of top-1, in points, when only one layer is pruned by a share. {words}."
    title = _title("Sensitivity to pruning, points of top-1", len(worst), len(curves))
    return Plot(f"prune-{slug(stage)}", title, alt, draw, rows_height(len(worst), 20, 38))


def slug(text: str) -> str:
    """Fit for an identifier and a file name."""
    return "".join(character if character.isascii() and character.isalnum() else "-" for character in text)[:60]


def _title(what: str, shown: int, total: int) -> str:
    return what if shown == total else f"{what}: the {shown} most sensitive of {total} layers"
