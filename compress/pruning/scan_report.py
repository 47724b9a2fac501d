"""A sensitivity scan for people: a table for the log, CSV for programs, and a map of colours as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from compress.pruning.sensitivity import Curve

__all__ = ["scan_csv", "scan_svg", "scan_table"]

_ROW, _COLUMN, _TOP, _GAP = 22, 64, 66, 10  # pixels: height of a row, width of a column, of the heading, and between
_CHARACTER = 7.3  # pixels a character of 12 px monospace takes, a little generous
_WORST = 20.0  # points of top-1 that have the full colour

_STYLE = """
text { font: 12px ui-monospace, monospace; fill: #1f2328; }
.heading { font: 600 14px system-ui, sans-serif; }
.note { font: 12px system-ui, sans-serif; fill: #59636e; }
.cell { fill: #cf222e; }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc; } .note { fill: #9198a1; } .cell { fill: #f85149; }
}
"""


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
    left = round(_CHARACTER * max((len(curve.name) for curve in curves), default=0)) + _GAP
    shares = [point.share for point in curves[0].points[1:]] if curves else []
    width, height = left + _COLUMN * len(shares) + _GAP, _TOP + _ROW * len(curves) + _GAP
    heads = [
        f'<text x="{left + _COLUMN * (place + 0.5):.0f}" y="{_TOP - 8}" text-anchor="middle">{share:.0%}</text>'
        for place, share in enumerate(shares)
    ]
    rows = [_row(curve, left, _TOP + _ROW * place) for place, curve in enumerate(_ordered(curves))]
    title = "Sensitivity to pruning"
    summary = f"Change of top-1 in points on {samples} validation images when only this layer is pruned by this share"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" aria-labelledby="title summary">',
            f'<title id="title">{title}</title>',
            f'<desc id="summary">{summary}</desc>',
            f"<style>{_STYLE}</style>",
            f'<text class="heading" x="0" y="16">{title}</text>',
            f'<text class="note" x="0" y="34">{summary}</text>',
            *heads,
            *rows,
            "</svg>\n",
        ]
    )


def _row(curve: Curve, left: int, top: int) -> str:
    middle = top + _ROW // 2 + 4
    cells = "".join(
        f'<rect class="cell" x="{left + _COLUMN * place}" y="{top + 1}" width="{_COLUMN - 2}" height="{_ROW - 2}" '
        f'fill-opacity="{min(1.0, max(0.0, -change) / _WORST):.2f}"/>'
        f'<text x="{left + _COLUMN * (place + 0.5):.0f}" y="{middle}" text-anchor="middle">{change:+.1f}</text>'
        for place, change in enumerate(_changes(curve))
    )
    return f'<g><text x="{left - _GAP}" y="{middle}" text-anchor="end">{escape(curve.name)}</text>{cells}</g>'


def _changes(curve: Curve) -> list[float]:
    return [100 * (point.top1 - curve.points[0].top1) for point in curve.points[1:]]


def _ordered(curves: Sequence[Curve]) -> list[Curve]:
    return sorted(curves, key=lambda curve: sum(_changes(curve)))
