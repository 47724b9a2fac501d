"""A sensitivity scan for people: a table for the log, CSV for programs, and a bar chart as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence

from compress.quantization.sensitivity import LayerSensitivity
from compress.svg import ROW, RowChart, column_of_names
from compress.svg import row as svg_row

__all__ = ["decibels", "scan_csv", "scan_svg", "scan_table"]

_TOP = 46  # pixels: height of the heading
_BARS, _VALUE = 420, 90  # pixels: width of the longest bar and of the number behind it
_HEADING = "only this layer in INT8"


def scan_table(rows: Sequence[LayerSensitivity]) -> list[str]:
    """One line per layer, most sensitive first: what the network's output loses when that layer alone is quantized."""
    width = max((len(row.name) for row in rows), default=0)
    width = max(width, len(_HEADING))
    heading = f"{_HEADING:<{width}}{'SQNR':>12}{'top-1 changed':>16}{'weights':>12}{'MACs':>14}"
    return [heading, *(_line(row, width) for row in _ordered(rows))]


def _line(row: LayerSensitivity, width: int) -> str:
    size = f"{row.weight_bytes / 1024:.1f} KiB"
    return f"{row.name:<{width}}{decibels(row.sqnr_db):>12}{row.agreement_loss:>16.1%}{size:>12}{row.macs:>14,}"


def scan_csv(rows: Sequence[LayerSensitivity]) -> str:
    """Every layer in execution order: `layer,sqnr_db,top1_changed,weight_bytes,macs`."""
    lines = [f"{r.name},{r.sqnr_db:.4f},{r.agreement_loss:.6f},{r.weight_bytes},{r.macs}" for r in rows]
    return "\n".join(["layer,sqnr_db,top1_changed,weight_bytes,macs", *lines]) + "\n"


def scan_svg(rows: Sequence[LayerSensitivity]) -> str:
    """One horizontal bar per layer, lowest SQNR (most sensitive) first, in the reader's light or dark mode.

    A layer that changes nothing (infinite SQNR) has a full bar and reads `exact`.
    """
    ordered = _ordered(rows)
    left = column_of_names([row.name for row in rows])
    note = "SQNR of the output with only this layer in INT8; shorter is worse"
    title, width = "Sensitivity to INT8 quantization", left + _BARS + _VALUE
    chart = RowChart(title, _summary(ordered), note, width, _TOP, light="#0969da", dark="#4493f8")
    longest = max((row.sqnr_db for row in rows if math.isfinite(row.sqnr_db)), default=0.0)
    return chart.draw([_bar(row, left, chart.baseline(place), longest) for place, row in enumerate(ordered)])


def _ordered(rows: Sequence[LayerSensitivity]) -> list[LayerSensitivity]:
    return sorted(rows, key=lambda row: row.sqnr_db)


def decibels(value: float) -> str:
    """`31.2 dB`, or `exact` where nothing differs."""
    return "exact" if value == math.inf else f"{value:.1f} dB"  # NaN reads nan, -inf reads -inf


def _summary(rows: Sequence[LayerSensitivity]) -> str:
    if not rows:
        return "No layers."
    worst, best = rows[0], rows[-1]
    return (
        f"Bar chart of {len(rows)} layers by the output's signal-to-quantization-noise ratio when only that layer is "
        f"quantized, from {worst.name} ({decibels(worst.sqnr_db)}) to {best.name} ({decibels(best.sqnr_db)})."
    )


def _bar(layer: LayerSensitivity, left: int, baseline: int, longest: float) -> str:
    value = longest if layer.sqnr_db == math.inf else layer.sqnr_db
    full = longest <= 0 and layer.sqnr_db == math.inf
    share = 1.0 if full else value / longest if longest > 0 and math.isfinite(value) else 0.0
    length = max(1.0, _BARS * max(0.0, share))
    top = baseline - ROW // 2 - 1
    bar = f'<rect class="mark" x="{left}" y="{top}" width="{length:.1f}" height="{ROW - 6}" rx="2"/>'
    number = f'<text x="{left + length + 6:.1f}" y="{baseline}">{decibels(layer.sqnr_db)}</text>'
    return svg_row(layer.name, left, baseline, bar + number)
