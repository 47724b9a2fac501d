"""The tables that `quantize_scan` and `prune_scan` leave in a run folder, read without trust."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from compress.core.errors import ConfigError
from compress.support.reading import read_bytes

__all__ = ["PruneCurve", "QuantizeRow", "Scan", "read_scans"]

_QUANTIZE = ["layer", "sqnr_db", "top1_changed", "weight_bytes", "macs"]
_PRUNE = ["layer", "size", "share", "top1", "loss"]
_LARGEST_BYTES = 4 << 20


@dataclass(frozen=True)
class QuantizeRow:
    """The network's output with only this layer in INT8; `top1_changed` is a share of the samples."""

    layer: str
    sqnr_db: float
    top1_changed: float
    weight_bytes: int
    macs: int


@dataclass(frozen=True)
class PruneCurve:
    """Change of top-1 in points when only this layer is pruned by each of `shares`."""

    layer: str
    shares: tuple[float, ...]
    changes: tuple[float, ...]


@dataclass(frozen=True)
class Scan:
    """Results of one scan stage; one of the two is empty."""

    stage: str
    quantize: tuple[QuantizeRow, ...] = ()
    prune: tuple[PruneCurve, ...] = ()


def read_scans(folder: Path) -> tuple[Scan, ...]:
    """Every scan among the `.csv` files of a run folder; other tables are left alone.

    Raises:
        ConfigError: a file that begins like a scan is cut off or holds something else.
    """
    found = []
    for path in sorted(folder.glob("*.csv")):
        try:
            text = read_bytes(path, _LARGEST_BYTES).decode(errors="replace")
        except OSError:  # too large, or no file
            continue
        rows = list(csv.reader(io.StringIO(text)))
        try:
            if rows[:1] == [_QUANTIZE]:
                found.append(Scan(path.stem, quantize=tuple(_quantize(*row) for row in rows[1:])))
            elif rows[:1] == [_PRUNE]:
                found.append(Scan(path.stem, prune=_curves(rows[1:])))
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{path} is not a whole scan: {error}", fix="delete it or run the scan again") from error
    return tuple(scan for scan in found if scan.quantize or scan.prune)


def _quantize(layer: str, sqnr_db: str, top1_changed: str, weight_bytes: str, macs: str) -> QuantizeRow:
    return QuantizeRow(layer, float(sqnr_db), float(top1_changed), int(weight_bytes), int(macs))


def _curves(rows: list[list[str]]) -> tuple[PruneCurve, ...]:
    points: dict[str, list[tuple[float, float]]] = {}
    for layer, _, share, top1, _ in rows:
        points.setdefault(layer, []).append((float(share), float(top1)))
    shares = {tuple(share for share, _ in curve) for curve in points.values()}
    if len(shares) > 1:
        raise ValueError("layers have different shares")
    return tuple(
        PruneCurve(
            layer,
            tuple(share for share, _ in curve[1:]),
            tuple(100 * (top1 - curve[0][1]) for _, top1 in curve[1:]),
        )
        for layer, curve in points.items()
        if len(curve) > 1
    )
