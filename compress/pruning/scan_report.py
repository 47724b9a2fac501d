"""A sensitivity scan: a table for the log, and CSV for programs and the report, which draws it."""

from __future__ import annotations

from collections.abc import Sequence

from compress.pruning.sensitivity import Curve

__all__ = ["scan_csv", "scan_table"]


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


def _changes(curve: Curve) -> list[float]:
    return [100 * (point.top1 - curve.points[0].top1) for point in curve.points[1:]]


def _ordered(curves: Sequence[Curve]) -> list[Curve]:
    return sorted(curves, key=lambda curve: sum(_changes(curve)))
