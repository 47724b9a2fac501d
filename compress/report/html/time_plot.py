"""The layers that take longest, by what they wait for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.profile.document import Profile
from compress.report.html.charts import Margins, axes, label_rows, legend, legend_height, listed, rows_height, unit_axis
from compress.report.html.plot import Plot
from compress.report.html.roofline_plot import CLASSES
from compress.report.text import ms_text, percent_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from compress.report.html.palette import Palette

__all__ = ["time_plot"]

_MOST = 12
_ROW = 21


def time_plot(profile: Profile) -> Plot | None:
    """Time of the slowest layers, coloured as in the roofline; None for a profile without layers."""
    layers = sorted(profile.layers, key=lambda layer: -layer.median_ms)[:_MOST]
    if not layers:
        return None
    present = [kind for kind in CLASSES if any(layer.bottleneck == kind for layer in layers)]

    def draw(figure: Figure, palette: Palette) -> None:
        names = [layer.name for layer in layers]
        on = axes(figure, Margins.for_labels(names, top=legend_height(1)))
        label_rows(on, names)
        colours = dict(zip(CLASSES, palette.series, strict=False))
        for place, layer in enumerate(layers):
            on.barh([place], [layer.median_ms], 0.62, color=colours.get(layer.bottleneck, palette.muted))
            text = f"{ms_text(layer.median_ms)}, {percent_text(layer.share)} %"
            on.annotate(text, (layer.median_ms, place), (4, 0), textcoords="offset points", va="center", fontsize=10)
        on.set_xlim(0, 1.6 * layers[0].median_ms or 1.0)
        unit_axis(on, "ms, and the share of all layers")
        legend(on, [(kind, colours[kind]) for kind in present], columns=4)

    words = listed([f"{layer.name} {ms_text(layer.median_ms)} ms ({layer.bottleneck})" for layer in layers])
    title = "Slowest layers" if len(profile.layers) > len(layers) else "Time per layer"
    alt = f"Bars: median time of the slowest layers, coloured by what they wait for. {words}."
    return Plot("slowest", title, alt, draw, rows_height(len(layers), _ROW, 44 + legend_height(1)))
