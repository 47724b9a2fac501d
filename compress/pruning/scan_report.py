"""A sensitivity scan for people: a table for the log, CSV for programs, and a map of colours as SVG."""

from __future__ import annotations

from collections.abc import Sequence

from compress.pruning.sensitivity import Curve
from compress.svg import GAP, ROW, RowChart, column_of_names, row

__all__ = ["scan_csv", "scan_svg", "scan_table"]

_COLUMN, _TOP = 64, 66  # pixels: width of a column, height of the heading
_WORST = 20.0  # points of top-1 that have the full colour


def scan_table(curves: Sequence[Curve]) -> list[str]:
    """One line per layer, most sensitive first: change of top-1 in points at each share."""
    width = max((len(curve.name) for curve in curves), default=0)
    shares = [point.share for point in curves[0].points[1:]] if curves else []
    lines = [f"{'only this layer pruned by':<{max(width, 25)}}" + "".join(f"{share:>9.0%}" for share in shares)]
    for curve in _ordered(curves):
        cells = "".join(f"{change:>+9.1f}" for change in _changes(curve))
        lines.append(f"{curve.name:<{max(width, 25)}}{cells}")
    return lines


def scan_csv(curves: Sequence[Curve]) -> str:
    """Every point: `layer,size,share,top1,loss`."""
    rows = [f"{c.name},{c.size},{p.share:g},{p.top1:.6f},{p.loss:.6f}" for c in curves for p in c.points]
    return "\n".join(["layer,size,share,top1,loss", *rows]) + "\n"


def scan_svg(curves: Sequence[Curve], samples: int) -> str:
    """A row per layer, a column per share; the redder a cell, the more top-1 points were lost."""
    left = column_of_names([curve.name for curve in curves])
    shares = [point.share for point in curves[0].points[1:]] if curves else []
    summary = f"Change of top-1 in points on {samples} validation images when only this layer is pruned by this share"
    width = left + _COLUMN * len(shares) + GAP
    chart = RowChart("Sensitivity to pruning", summary, summary, width, _TOP, light="#cf222e", dark="#f85149")
    heads = [
        f'<text x="{left + _COLUMN * (place + 0.5):.0f}" y="{_TOP - 8}" text-anchor="middle">{share:.0%}</text>'
        for place, share in enumerate(shares)
    ]
    rows = [_row(curve, left, chart.baseline(place)) for place, curve in enumerate(_ordered(curves))]
    return chart.draw(rows, heads)


def _row(curve: Curve, left: int, baseline: int) -> str:
    top = baseline - ROW // 2 - 4
    cells = "".join(
        f'<rect class="mark" x="{left + _COLUMN * place}" y="{top + 1}" width="{_COLUMN - 2}" height="{ROW - 2}" '
        f'fill-opacity="{min(1.0, max(0.0, -change) / _WORST):.2f}"/>'
        f'<text x="{left + _COLUMN * (place + 0.5):.0f}" y="{baseline}" text-anchor="middle">{change:+.1f}</text>'
        for place, change in enumerate(_changes(curve))
    )
    return row(curve.name, left, baseline, cells)


def _changes(curve: Curve) -> list[float]:
    return [100 * (point.top1 - curve.points[0].top1) for point in curve.points[1:]]


def _ordered(curves: Sequence[Curve]) -> list[Curve]:
    return sorted(curves, key=lambda curve: sum(_changes(curve)))
