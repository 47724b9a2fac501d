"""A chart with one row per layer as SVG: names on the left, marks beside them, in the reader's light or dark mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

__all__ = ["GAP", "ROW", "RowChart", "column_of_names", "row"]

ROW, GAP = 22, 10
"""Pixels: height of a row, and between the parts of a row."""

_CHARACTER = 7.3  # pixels a character of 12 px monospace takes, a little generous
_STYLE = """
text {{ font: 12px ui-monospace, monospace; fill: #1f2328; }}
.heading {{ font: 600 14px system-ui, sans-serif; }}
.note {{ font: 12px system-ui, sans-serif; fill: #59636e; }}
.mark {{ fill: {light}; }}
@media (prefers-color-scheme: dark) {{
  text {{ fill: #f0f6fc; }} .note {{ fill: #9198a1; }} .mark {{ fill: {dark}; }}
}}
"""


@dataclass(frozen=True)
class RowChart:
    """What stands around the rows.

    Attributes:
        title: heading of the picture.
        summary: what it shows, for those who do not see it.
        note: how to read it, under the heading.
        width: of the picture, in pixels.
        top: height of all that stands above the rows, in pixels.
        light: colour of the marks on a light page.
        dark: colour of the marks on a dark page.
    """

    title: str
    summary: str
    note: str
    width: int
    top: int
    light: str
    dark: str

    def draw(self, rows: Sequence[str], above: Sequence[str] = ()) -> str:
        """The picture: `rows` as made by `row`, and other SVG elements `above` them."""
        height = self.top + ROW * len(rows) + GAP
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {height}" width="{self.width}" '
                f'height="{height}" role="img" aria-labelledby="title summary">',
                f'<title id="title">{escape(self.title)}</title>',
                f'<desc id="summary">{escape(self.summary)}</desc>',
                f"<style>{_STYLE.format(light=self.light, dark=self.dark)}</style>",
                f'<text class="heading" x="0" y="16">{escape(self.title)}</text>',
                f'<text class="note" x="0" y="34">{escape(self.note)}</text>',
                *above,
                *rows,
                "</svg>\n",
            ]
        )

    def baseline(self, place: int) -> int:
        """Where text of the row `place` (from 0) stands, in pixels from the top."""
        return self.top + ROW * place + ROW // 2 + 4


def column_of_names(names: Sequence[str]) -> int:
    """Pixels that the names take, with the gap behind them."""
    return round(_CHARACTER * max(map(len, names), default=0)) + GAP


def row(name: str, left: int, baseline: int, marks: str) -> str:
    """One row: its name, ending before `left`, and the SVG elements of its marks."""
    return f'<g><text x="{left - GAP}" y="{baseline}" text-anchor="end">{escape(name)}</text>{marks}</g>'
