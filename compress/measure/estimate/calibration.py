"""Lessons of real measurements for the estimate: a factor and a band per device profile, in a small file to share.

    <user data folder>/edge-compress/calibration/<target>.json

Every real measurement adds a point (estimate against measured); nothing emulated or measured elsewhere does.
"""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

from platformdirs import user_data_path
from pydantic import Field, JsonValue, TypeAdapter, ValidationError

from compress.core.artifact import Precision
from compress.core.errors import StageError, one_line
from compress.core.quantities import Milliseconds
from compress.measure.estimate.roofline import BAND
from compress.support.files import write_bytes
from compress.support.reading import read_bytes
from compress.support.serialize import from_json, to_json

__all__ = ["Calibration", "Point", "add_points", "calibration_file", "read_points", "summarize"]

_NARROWEST_BAND = 1.15
"""Two boards of one kind differ by cooling, power supply and memory maker."""

_LARGEST_FILE_BYTES = 16 << 20
_MOST_POINTS = 2000
"""Kept, newest last: of any length that a point may have, they fit into the largest file that is read."""

Text = Annotated[str, Field(max_length=200)]

_notes = logging.getLogger(__name__)


@dataclass(frozen=True)
class Point:
    """One model, estimated without calibration and measured with all cores at batch 1."""

    manifest_sha256: Text
    stage: Text
    precision: Precision
    device: Text
    runtime: Text
    estimate_ms: Milliseconds
    measured_ms: Milliseconds


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


@dataclass(frozen=True)
class _Entries:
    """A file as it is found: one bad entry does not spoil the others."""

    points: tuple[JsonValue, ...]


def calibration_file(target: str) -> Path:
    """Path of the file that keeps a profile's points; copy it to share them."""
    return user_data_path("edge-compress") / "calibration" / f"{target}.json"


def read_points(target: str) -> tuple[Point, ...]:
    """All usable points of a profile; none where nothing was measured or the file cannot be used, which is noted."""
    path = calibration_file(target)
    try:
        entries = from_json(_Entries, read_bytes(path, _LARGEST_FILE_BYTES)).points
    except FileNotFoundError:
        return ()
    except (OSError, StageError) as error:
        reason = error.strerror or error if isinstance(error, OSError) else error
        _notes.warning("%s", one_line(f"{path} is not used: {reason}"))
        return ()
    points = _usable(entries)
    if len(points) < len(entries):
        _notes.warning("%s", one_line(f"{path}: {len(entries) - len(points)} unusable points are left out"))
    return points


def add_points(target: str, points: Sequence[Point]) -> int:
    """Keep usable points; a newer one of the same model and device replaces the older. Returns how many were usable.

    Raises:
        StageError: the file cannot be written.
    """
    usable = _usable([asdict(point) for point in points])
    if usable:
        every = {(point.manifest_sha256, point.stage, point.device): point for point in (*read_points(target), *usable)}
        kept = tuple(every.values())[-_MOST_POINTS:]
        write_bytes(calibration_file(target), to_json(_File(target, kept)))
    return len(usable)


def _usable(entries: Sequence[object]) -> tuple[Point, ...]:
    """The entries that are points within all bounds; the device's name, which is shown, as one line."""
    adapter = TypeAdapter(Point)
    points = []
    for entry in entries:
        try:
            point = adapter.validate_python(entry)
        except ValidationError:
            continue
        points.append(replace(point, device=one_line(point.device)))
    return tuple(points)


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
