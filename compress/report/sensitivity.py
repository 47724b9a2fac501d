"""The table of layer sensitivities, most sensitive first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from compress.report.text import bytes_text, count_text, decibel_text, percent_text

if TYPE_CHECKING:
    from compress.quantization.sensitivity import LayerSensitivity

__all__ = ["sensitivity_table"]


def sensitivity_table(rows: Sequence[LayerSensitivity]) -> Table:
    """One row per layer: what the network's output loses when that layer alone is quantized."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False, header_style="")
    table.add_column("only this layer in INT8", overflow="fold", min_width=10)
    for title in ("SQNR", "top-1 changed %", "weights", "MACs"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in sorted(rows, key=lambda row: row.sqnr_db):
        cells = (
            row.name,
            decibel_text(row.sqnr_db),
            percent_text(row.agreement_loss),
            bytes_text(row.weight_bytes),
            count_text(row.macs),
        )
        table.add_row(*map(Text, cells))
    return table
