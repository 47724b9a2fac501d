"""Pareto front: those of several runs that nobody beats in both respects, and the picture of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compress.report.html.charts import Margins, axes, legend, legend_height, listed, padded_limits, unit_axis
from compress.report.html.plot import Plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from compress.report.html.palette import Palette

__all__ = ["Point", "front", "pareto_plot"]

_MARKERS = "osD^vP"
_HEIGHT = 290


@dataclass(frozen=True)
class Point:
    """A run: its number in the table, a cost (less is better), a worth (more is better), and whom it compares with."""

    number: int
    cost: float
    worth: float
    group: str = ""


def front(points: Sequence[Point]) -> list[Point]:
    """Points that no other equals or beats in both cost and worth while beating it in one; cheapest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (point.cost, -point.worth)):
        if not best or point.worth > best[-1].worth or (point.cost, point.worth) == (best[-1].cost, best[-1].worth):
            best.append(point)
    return best


def pareto_plot(name: str, title: str, cost: str, worth: str, points: Sequence[Point]) -> Plot:
    """Every run as a dot with its number, a front for each group; `cost` and `worth` are the units."""
    groups = list(dict.fromkeys(point.group for point in points))
    named = sum(map(bool, groups))
    fronts = {group: front([point for point in points if point.group == group]) for group in groups}

    def draw(figure: Figure, palette: Palette) -> None:
        on = axes(figure, Margins(52, top=legend_height(named, 1), bottom=42))
        for place, group in enumerate(groups):
            colour, marker = palette.series[place % len(palette.series)], _MARKERS[place % len(_MARKERS)]
            best = fronts[group]
            on.plot(
                [p.cost for p in best], [p.worth for p in best], drawstyle="steps-post", color=colour, linewidth=1.2
            )
            for point in (point for point in points if point.group == group):
                fill = colour if point in best else palette.surface
                on.plot([point.cost], [point.worth], marker, color=colour, markerfacecolor=fill, markersize=8)
                on.annotate(str(point.number), (point.cost, point.worth), (7, 5), textcoords="offset points")
        on.set_xlim(*padded_limits(min(p.cost for p in points), max(p.cost for p in points), 0.12))
        on.set_ylim(*padded_limits(min(p.worth for p in points), max(p.worth for p in points), 0.12))
        unit_axis(on, cost)
        on.grid(axis="y")
        on.tick_params(axis="y", length=0, labelcolor=palette.muted)
        on.set_ylabel(worth)
        if named:
            colours = [palette.series[place % len(palette.series)] for place in range(len(groups))]
            markers = [_MARKERS[place % len(_MARKERS)] for place in range(len(groups))]
            legend(on, list(zip(groups, colours, strict=True)), markers, columns=1)

    return Plot(name, title, _alt(fronts, cost, worth, len(points)), draw, _HEIGHT + legend_height(named, 1))


def _alt(fronts: dict[str, list[Point]], cost: str, worth: str, total: int) -> str:
    parts = []
    for group, best in fronts.items():
        runs = listed([f"run {point.number} ({point.cost:.4g} {cost}, {point.worth:.1f} {worth})" for point in best])
        parts.append(f"On the front{f' of {group}' if group else ''}: {runs}.")
    return f"Scatter of {total} runs, {worth} over {cost}; filled points are not beaten in both. {' '.join(parts)}"
