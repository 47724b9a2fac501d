"""What real measurements teach the estimate: a factor and a band per device profile, kept in a small file to share.

    <user data folder>/edge-compress/calibration/<target>.json

Every real measurement adds a point (estimate against measured); nothing emulated or measured elsewhere does.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_data_path

from compress.errors import StageError
from compress.estimate.roofline import BAND
from compress.files import write_bytes
from compress.serialize import from_json, to_json
from compress.types import Precision

__all__ = ["Calibration", "Point", "add_points", "calibration_file", "read_points", "summarize"]

_NARROWEST_BAND = 1.15
"""Two boards of one kind differ by cooling, power supply and memory maker."""


@dataclass(frozen=True)
class Point:
    """One model, estimated without calibration and measured with all cores at batch 1."""

    manifest_sha256: str
    stage: str
    precision: Precision
    device: str
    runtime: str
    estimate_ms: float
    measured_ms: float


@dataclass(frozen=True)
class Calibration:
    """`factor` times the roofline; the real value is expected within a factor of `band`."""

    factor: float = 1.0
    band: float = BAND
    points: int = 0
    basis: str = ""


@dataclass(frozen=True)
class _File:
    target: str
    points: tuple[Point, ...]


def calibration_file(target: str) -> Path:
    """Where a profile's points are kept; copy it to share them."""
    return user_data_path("edge-compress") / "calibration" / f"{target}.json"


def read_points(target: str) -> tuple[Point, ...]:
    """All points of a profile; none where nothing was measured or the file is damaged."""
    try:
        return from_json(_File, calibration_file(target).read_bytes()).points
    except (OSError, StageError):
        return ()


def add_points(target: str, points: Sequence[Point]) -> None:
    """Keep points; a newer one of the same model and device replaces the older.

    Raises:
        StageError: the file cannot be written.
    """
    found = {(point.manifest_sha256, point.stage, point.device): point for point in (*read_points(target), *points)}
    write_bytes(calibration_file(target), to_json(_File(target, tuple(found.values()))))


def summarize(points: Sequence[Point], precision: Precision) -> Calibration:
    """Factor (median ratio) and band (the largest distance from it) for a precision; from all points if it has none."""
    same = [point for point in points if point.precision is precision] or list(points)
    if not same:
        return Calibration()
    logs = [math.log(point.measured_ms / point.estimate_ms) for point in same]
    middle = statistics.median(logs)
    spread = math.exp(max(abs(value - middle) for value in logs))
    band = max(_NARROWEST_BAND, spread, BAND ** (1 / len(same)))  # few points prove little
    names = ", ".join(sorted({point.device for point in same}))
    word = f"{len(same)} measurement{'s' * (len(same) > 1)} on {names}"
    return Calibration(math.exp(middle), band, len(same), f"roofline, calibrated with {word}")
