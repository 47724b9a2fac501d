"""A plot: what it is called, what it says in words, and how it is drawn by matplotlib.

Plots are small (400 wide, in CSS pixels) and stand in a grid, so that they stay readable on a phone. Matplotlib is
imported when the first one is drawn (`matplotlib_door`), with its own defaults whatever its user has set, and its
global state is not touched.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compress.report.html.matplotlib_door import open_matplotlib
from compress.report.html.palette import LIGHT, STAND_INS, Palette, css_variables, with_variables
from compress.report.html.svg import cleaned, standalone

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["WIDTH", "Plot", "png", "svg", "svg_file"]

WIDTH = 400
_DOTS_PER_PIXEL = 2.0
_POINTS_PER_INCH = 72.0  # matplotlib's SVG has a unit per point; a point here is a CSS pixel
_FONT_SIZE = 11.0


@dataclass(frozen=True)
class Plot:
    """One picture.

    Attributes:
        name: unique on a page, fit for a file name.
        title: stands above it.
        alt: what it shows, in a sentence or two, for those who do not see it.
        draw: puts it into an empty figure of this size, in these colours.
        height, width: in CSS pixels.
    """

    name: str
    title: str
    alt: str
    draw: Callable[[Figure, Palette], None]
    height: int
    width: int = WIDTH


def svg(plot: Plot) -> str:
    """An `<svg>` element to put into a page that defines the palette's variables; text stays text."""
    return with_variables(cleaned(_drawn(plot, STAND_INS, "svg"), plot.name, plot.title, plot.alt))


def svg_file(plot: Plot) -> bytes:
    """An SVG file that follows the reader's light or dark mode."""
    return standalone(svg(plot), plot.width, plot.height, css_variables()).encode()


def png(plot: Plot) -> bytes:
    """A PNG file in light colours, two dots per pixel."""
    return _drawn(plot, LIGHT, "png")


def _drawn(plot: Plot, palette: Palette, format: str) -> bytes:
    figure_class, defaults = open_matplotlib()
    stream = io.BytesIO()
    settings = defaults(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": plot.name,  # the same plot is the same bytes
            "text.parse_math": False,  # names of layers may hold dollar signs
            "font.size": _FONT_SIZE,
            "font.family": "DejaVu Sans",
            "axes.facecolor": "none",
            "axes.edgecolor": palette.line,
            "axes.labelcolor": palette.muted,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": False,
            "grid.color": palette.line,
            "text.color": palette.ink,
            "xtick.color": palette.line,
            "ytick.color": palette.line,
            "xtick.labelcolor": palette.muted,
            "ytick.labelcolor": palette.ink,
            "legend.frameon": False,
            "legend.labelcolor": palette.muted,
            "hatch.color": palette.muted,
        }
    )
    with settings, _no_glyph_warnings():
        size = plot.width / _POINTS_PER_INCH, plot.height / _POINTS_PER_INCH
        figure = figure_class(figsize=size, facecolor="none" if format == "svg" else palette.surface)
        plot.draw(figure, palette)
        dots = _POINTS_PER_INCH * (1 if format == "svg" else _DOTS_PER_PIXEL)
        figure.savefig(stream, format=format, dpi=dots, metadata={"Date": None} if format == "svg" else None)
    return stream.getvalue()


@contextmanager
def _no_glyph_warnings() -> Iterator[None]:
    """Text is drawn by the reader's fonts; what matplotlib's own one lacks only makes its size a guess."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        yield
