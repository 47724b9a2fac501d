"""The bar chart of layer sensitivities: an SVG that follows the reader's light or dark mode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from compress.files import write_bytes
from compress.report.text import decibel_text

if TYPE_CHECKING:
    from compress.quantization.sensitivity import LayerSensitivity

__all__ = ["write_sensitivity_plot"]

_TITLE = "Sensitivity to INT8 quantization"
_ROW, _TOP, _GAP = 22, 46, 10  # pixels: height of a row, of the heading, and between the parts of a row
_BARS, _VALUE = 420, 90  # pixels: width of the longest bar and of the number behind it
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


def write_sensitivity_plot(rows: Sequence[LayerSensitivity], path: Path) -> None:
    """Write one horizontal bar per layer, lowest SQNR (most sensitive) first.

    A layer that changes nothing (infinite SQNR) has a full bar and reads `exact`.

    Raises:
        StageError: the file cannot be written.
    """
    write_bytes(path, _svg(sorted(rows, key=lambda row: row.sqnr_db)).encode())


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
        f"quantized, from {worst.name} ({decibel_text(worst.sqnr_db)}) to {best.name} ({decibel_text(best.sqnr_db)})."
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
        f'<text x="{left + length + 6:.1f}" y="{middle}">{escape(decibel_text(row.sqnr_db))}</text></g>'
    )
