"""Parts that the plots share: labelled rows, margins in pixels, and words that fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compress.core.errors import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

    from compress.report.html.palette import Palette

__all__ = ["ROW", "Margins", "axes", "label_rows", "legend", "legend_height", "listed", "not_measured"]
__all__ += ["padded_limits", "plain_numbers", "rows_height", "short", "unit_axis"]

ROW = 26
_CHARACTER = 6.6  # pixels a character of 11 px takes on average, a little generous
_LONGEST = 26
_LISTED = 12
_NARROWEST = 0.005  # of the values: finer differences than a percent are not spread over a whole axis
_TICKS = 6
_CAPTION_LENGTH = 56
_CAPTION = 17  # pixels from the bottom to the top of the words below an axis


@dataclass(frozen=True)
class Margins:
    """Pixels around the axes."""

    left: float
    right: float = 14
    top: float = 8
    bottom: float = 40

    @classmethod
    def for_labels(
        cls, labels: Sequence[str], *, right: float = right, top: float = top, bottom: float = bottom
    ) -> Margins:
        """Room on the left for the longest of the labels."""
        return cls(14 + _CHARACTER * max((len(short(label)) for label in labels), default=0), right, top, bottom)


def axes(figure: Figure, margins: Margins) -> Axes:
    """The one pair of axes of a figure."""
    width, height = figure.get_size_inches() * 72
    return figure.add_axes(
        (
            margins.left / width,
            margins.bottom / height,
            1 - (margins.left + margins.right) / width,
            1 - (margins.top + margins.bottom) / height,
        )
    )


def rows_height(count: int, row: float = ROW, extra: float = 52) -> int:
    """Height of a plot with one row per label."""
    return round(max(count, 1) * row + extra)


def label_rows(on: Axes, labels: Sequence[str]) -> None:
    """One label per row, the first one on top."""
    on.set_ylim(len(labels) - 0.5, -0.5)
    on.set_yticks(range(len(labels)), [short(label) for label in labels])
    on.tick_params(axis="y", length=0)
    on.spines["left"].set_visible(False)


def unit_axis(on: Axes, text: str) -> None:
    """A light grid across the value axis, and what it counts, in the middle of the figure where there is most room."""
    on.set_xlabel(text)
    figure = _figure(on)
    on.xaxis.set_label_coords(0.5, _CAPTION / (72 * figure.get_figheight()), transform=figure.transFigure)
    on.set_axisbelow(True)
    on.grid(axis="x")
    if on.get_xscale() == "linear":
        on.locator_params(axis="x", nbins=_TICKS)
    on.tick_params(axis="x", which="both", length=0)


def legend(on: Axes, entries: Sequence[tuple[str, str]], markers: Sequence[str] = (), columns: int = 2) -> None:
    """Names with their colours at the top of the figure; squares, or `markers` as in the plot."""
    from matplotlib.lines import Line2D

    shapes = markers or ["s"] * len(entries)
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="", label=short(name, _CAPTION_LENGTH // columns))
        for (name, colour), marker in zip(entries, shapes, strict=True)
    ]
    on.legend(
        handles=handles,
        ncols=columns,
        loc="upper left",
        bbox_to_anchor=(0, 1),
        bbox_transform=_figure(on).transFigure,
        borderaxespad=0,
        handlelength=1,
        handletextpad=0.3,
        columnspacing=1,
    )


def legend_height(entries: int, columns: int = 2) -> int:
    """Pixels that a legend takes."""
    return 10 + 17 * -(-entries // columns) if entries else 8


def plain_numbers(axis: Axis) -> None:
    """`0.1`, `10`: no powers in TeX on a logarithmic axis."""
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(lambda *_: "")


def padded_limits(low: float, high: float, share: float = 0.08) -> tuple[float, float]:
    """Limits that leave room on both sides, also around values that are the same or nearly so."""
    room = max((high - low) * share, max(abs(low), abs(high)) * _NARROWEST) or 1.0
    return low - room, high + room


def not_measured(on: Axes, row: int, reason: str, palette: Palette) -> None:
    """Words where a bar would be."""
    on.text(
        0.01,
        row,
        short(reason, 46),
        va="center",
        color=palette.muted,
        style="italic",
        transform=on.get_yaxis_transform(),
    )


def short(text: str, longest: int = _LONGEST) -> str:
    """One line; the middle gives way, as names differ at their ends."""
    line = one_line(text)
    if len(line) <= longest:
        return line
    head = (longest - 1) // 2
    return f"{line[:head]}…{line[len(line) - (longest - 1 - head) :]}"


def listed(parts: Sequence[str]) -> str:
    """The first dozen, for a description."""
    more = len(parts) - _LISTED
    return "; ".join(parts[:_LISTED]) + (f"; and {more} more" if more > 0 else "")


def _figure(on: Axes) -> Figure:
    figure = on.get_figure(root=True)
    assert figure is not None
    return figure
