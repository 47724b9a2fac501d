"""A sensitivity scan: a table for the log, and CSV for programs and the report, which draws it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from compress.quantization.sensitivity import LayerSensitivity

__all__ = ["decibels", "scan_csv", "scan_table"]

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


def _ordered(rows: Sequence[LayerSensitivity]) -> list[LayerSensitivity]:
    return sorted(rows, key=lambda row: row.sqnr_db)


def decibels(value: float) -> str:
    """`31.2 dB`, or `exact` where nothing differs."""
    return "exact" if value == math.inf else f"{value:.1f} dB"  # NaN reads nan, -inf reads -inf
