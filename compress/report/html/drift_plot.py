"""The drift matrix: every exported INT8 file against the graph it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compress.measure.drift import Drift
from compress.report.html.charts import Margins, axes, label_rows, listed, rows_height, short
from compress.report.html.plot import Plot
from compress.report.text import percent_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from compress.report.html.palette import Palette

__all__ = ["drift_plot", "shade"]

_STRONGEST = 0.45  # text on the strongest colour keeps a contrast of 4.5
_FULL_LSB = 2.0  # a step or two is rounding; from here on it is worth a look
_LEAST = 0.04
_ROW = 44


def shade(value: float, full: float) -> float:
    """Opacity of a heat map's cell, 0 to `full` and beyond."""
    return _LEAST + (_STRONGEST - _LEAST) * min(1.0, max(0.0, value / full))


def drift_plot(drifts: Sequence[Drift]) -> Plot:
    """A row per file, a column per reference; the redder, the more steps of the output they differ by."""
    files = list(dict.fromkeys((drift.stage, drift.runtime) for drift in drifts))
    references = list(dict.fromkeys(drift.reference for drift in drifts))

    def draw(figure: Figure, palette: Palette) -> None:
        labels = [stage for stage, _ in files]
        on = axes(figure, Margins.for_labels(labels, top=30, bottom=10))
        label_rows(on, labels)
        on.set_xlim(-0.5, len(references) - 0.5)
        on.set_xticks(range(len(references)), [short(f"against {name}", 40) for name in references])
        on.tick_params(axis="x", length=0, top=False, labeltop=True, labelbottom=False)
        on.spines["bottom"].set_visible(False)
        for drift in drifts:
            column, row = references.index(drift.reference), files.index((drift.stage, drift.runtime))
            alpha = shade(drift.max_lsb, _FULL_LSB)
            on.barh([row], [0.97], 0.92, left=[column - 0.485], color=palette.red, alpha=alpha, linewidth=0)
            text = f"largest {drift.max_lsb:.2f} LSB, mean {drift.mean_lsb:.3f}"
            on.text(column, row - 0.17, text, ha="center", va="center")
            detail = f"{percent_text(drift.agreement)} % agree, {drift.samples} images"
            on.text(column, row + 0.2, detail, ha="center", va="center", fontsize=10)

    words = listed([f"{d.stage} against {d.reference}: largest {d.max_lsb:.2f} LSB" for d in drifts])
    alt = f"Heat map of the drift of exported INT8 files. {words}."
    return Plot("drift", "Drift in steps of the output (LSB)", alt, draw, rows_height(len(files), _ROW, 44))
