"""A sensitivity scan for people: a table for the log, CSV for programs, and a bar chart as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from compress.quantization.sensitivity import LayerSensitivity

__all__ = ["scan_csv", "scan_svg", "scan_table"]

_TITLE = "Sensitivity to INT8 quantization"
_ROW, _TOP, _GAP = 22, 46, 10  # pixels: height of a row, of the heading, and between the parts of a row
_BARS, _VALUE = 420, 90  # pixels: width of the longest bar and of the number behind it
_HEADING = "only this layer in INT8"
_CHARACTER = 7.3  # pixels a character of 12 px monospace takes, a little generous

_STYLE = """
text { font: 12px ui-monospace, monospace; fill: #1f2328; }
.heading { font: 600 14px system-ui, sans-serif; }
.note { font: 12px system-ui, sans-serif; fill: #59636e; }
.bar { fill: #0969da; }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc; } .note { fill: #9198a1; } .bar { fill: #4493f8; }
}
"""


def scan_table(rows: Sequence[LayerSensitivity]) -> list[str]:
    """One line per layer, most sensitive first: what the network's output loses when that layer alone is quantized."""
    width = max((len(row.name) for row in rows), default=0)
    width = max(width, len(_HEADING))
    heading = f"{_HEADING:<{width}}{'SQNR':>12}{'top-1 changed':>16}{'weights':>12}{'MACs':>14}"
    return [heading, *(_line(row, width) for row in _ordered(rows))]


def _line(row: LayerSensitivity, width: int) -> str:
    size = f"{row.weight_bytes / 1024:.1f} KiB"
    return f"{row.name:<{width}}{_decibels(row.sqnr_db):>12}{row.agreement_loss:>16.1%}{size:>12}{row.macs:>14,}"


def scan_csv(rows: Sequence[LayerSensitivity]) -> str:
    """Every layer in execution order: `layer,sqnr_db,top1_changed,weight_bytes,macs`."""
    lines = [f"{r.name},{r.sqnr_db:.4f},{r.agreement_loss:.6f},{r.weight_bytes},{r.macs}" for r in rows]
    return "\n".join(["layer,sqnr_db,top1_changed,weight_bytes,macs", *lines]) + "\n"


def scan_svg(rows: Sequence[LayerSensitivity]) -> str:
    """One horizontal bar per layer, lowest SQNR (most sensitive) first, in the reader's light or dark mode.

    A layer that changes nothing (infinite SQNR) has a full bar and reads `exact`.
    """
    return _svg(_ordered(rows))


def _ordered(rows: Sequence[LayerSensitivity]) -> list[LayerSensitivity]:
    return sorted(rows, key=lambda row: row.sqnr_db)


def _decibels(value: float) -> str:
    return "exact" if value == math.inf else f"{value:.1f} dB"  # NaN reads nan, -inf reads -inf


def _svg(rows: Sequence[LayerSensitivity]) -> str:
    left = round(_CHARACTER * max((len(row.name) for row in rows), default=0)) + _GAP
    width, height = left + _BARS + _VALUE, _TOP + _ROW * len(rows) + _GAP
    longest = max((row.sqnr_db for row in rows if math.isfinite(row.sqnr_db)), default=0.0)
    bars = [_bar(row, left, _TOP + _ROW * place, longest) for place, row in enumerate(rows)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" aria-labelledby="title summary">',
            f'<title id="title">{_TITLE}</title>',
            f'<desc id="summary">{escape(_summary(rows))}</desc>',
            f"<style>{_STYLE}</style>",
            f'<text class="heading" x="0" y="16">{_TITLE}</text>',
            '<text class="note" x="0" y="34">SQNR of the output with only this layer in INT8; shorter is worse</text>',
            *bars,
            "</svg>\n",
        ]
    )


def _summary(rows: Sequence[LayerSensitivity]) -> str:
    if not rows:
        return "No layers."
    worst, best = rows[0], rows[-1]
    return (
        f"Bar chart of {len(rows)} layers by the output's signal-to-quantization-noise ratio when only that layer is "
        f"quantized, from {worst.name} ({_decibels(worst.sqnr_db)}) to {best.name} ({_decibels(best.sqnr_db)})."
    )


def _bar(row: LayerSensitivity, left: int, top: int, longest: float) -> str:
    value = longest if row.sqnr_db == math.inf else row.sqnr_db
    full = longest <= 0 and row.sqnr_db == math.inf
    share = 1.0 if full else value / longest if longest > 0 and math.isfinite(value) else 0.0
    length = max(1.0, _BARS * max(0.0, share))
    middle = top + _ROW // 2 + 4
    return (
        f'<g><text x="{left - _GAP}" y="{middle}" text-anchor="end">{escape(row.name)}</text>'
        f'<rect class="bar" x="{left}" y="{top + 3}" width="{length:.1f}" height="{_ROW - 6}" rx="2"/>'
        f'<text x="{left + length + 6:.1f}" y="{middle}">{escape(_decibels(row.sqnr_db))}</text></g>'
    )
