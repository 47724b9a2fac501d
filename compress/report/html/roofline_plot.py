"""The roofline: what each layer reaches of what the machine could do (Williams, Waterman, Patterson 2009)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from compress.core.roofline import Roofline
from compress.profile.document import LayerProfile, Profile
from compress.report.html.charts import Margins, axes, legend, legend_height, plain_numbers, unit_axis
from compress.report.html.plot import Plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from compress.report.html.palette import Palette

__all__ = ["CLASSES", "roofline_plot"]

_HEIGHT = 340
CLASSES = ("compute", "bandwidth", "launch", "transfer")
_MARKERS = "os^D"
_SMALLEST, _LARGEST = 16.0, 220.0  # area of a marker, points squared


def roofline_plot(profile: Profile) -> Plot | None:
    """Layers as dots, larger ones take longer; None if no layer has arithmetic and a time."""
    layers = [
        layer for layer in profile.layers if (layer.intensity or 0) > 0 and layer.operations and layer.median_ms > 0
    ]
    roof = profile.roofline
    if not layers or min(roof.peak_gflops, roof.bandwidth_gb_s) <= 0:
        return None
    model = Roofline(roof.peak_gflops, roof.bandwidth_gb_s)
    ridge = model.ridge

    def draw(figure: Figure, palette: Palette) -> None:
        on = axes(figure, Margins(56, top=legend_height(1), bottom=42))
        intensities = [layer.intensity or 0.0 for layer in layers]
        span = min([*intensities, ridge]) / 3, max([*intensities, ridge]) * 3
        on.plot([span[0], ridge, span[1]], [model.attainable(x) for x in (span[0], ridge, span[1])], color=palette.ink)
        for place, kind in enumerate(CLASSES):
            members = [layer for layer in layers if layer.bottleneck == kind]
            if members:
                colour, marker = palette.series[place], _MARKERS[place]
                sizes = [_SMALLEST + (_LARGEST - _SMALLEST) * min(1.0, max(0.0, member.share)) for member in members]
                dots = [member.intensity or 0.0 for member in members], [_gflops(member) for member in members]
                on.scatter(*dots, sizes, color=colour, marker=marker, alpha=0.75, linewidths=0)
        on.set_xscale("log")
        on.set_yscale("log")
        on.set_xlim(*span)
        reached = [_gflops(layer) for layer in layers]
        on.set_ylim(min(reached) / 3, max([*reached, roof.peak_gflops]) * 3)
        unit_axis(on, "operations per byte")
        on.grid(axis="y")
        on.tick_params(axis="y", which="both", length=0, labelcolor=palette.muted)
        on.tick_params(axis="x", which="both", length=0)
        on.set_ylabel("GFLOP/s reached")
        for axis in (on.xaxis, on.yaxis):
            plain_numbers(axis)
        present = [place for place, kind in enumerate(CLASSES) if any(layer.bottleneck == kind for layer in layers)]
        entries = [(CLASSES[place], palette.series[place]) for place in present]
        legend(on, entries, [_MARKERS[place] for place in present], columns=4)

    counts = Counter(layer.bottleneck for layer in layers)
    words = ", ".join(f"{number} {kind} bound" for kind, number in counts.most_common())
    limits = f"{roof.peak_gflops:.4g} GFLOP/s and {roof.bandwidth_gb_s:.4g} GB/s ({roof.source})"
    alt = f"Roofline of {profile.runtime} on {profile.device}, at most {limits}. {len(layers)} layers: {words}."
    return Plot("roofline", "Roofline; larger dots take longer", alt, draw, _HEIGHT)


def _gflops(layer: LayerProfile) -> float:
    return layer.operations / layer.median_ms / 1e6
