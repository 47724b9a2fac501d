"""Numbers as people read them. Every function gives plain text; `DASH` stands for what was not measured."""

from __future__ import annotations

import math

__all__ = ["DASH", "bytes_text", "change_text", "count_text", "decibel_text", "factor_text", "ms_text", "percent_text"]
__all__ += ["points_text", "runs_text", "seconds_text", "speed_text"]

DASH = "–"
_MINUS = "−"
_SAME_PERCENT = 0.05  # a change that would print as 0.0 %


def bytes_text(size_bytes: int | None) -> str:
    """`812 B`, `304.1 KiB`, `1.07 MiB` (1 KiB = 1024 bytes)."""
    if size_bytes is None:
        return DASH
    if size_bytes < 1024:
        return f"{size_bytes} B"
    if size_bytes < 1000 * 1024:
        return f"{size_bytes / 1024:.1f} KiB"
    return f"{size_bytes / 1024**2:.2f} MiB"


def count_text(count: int | None) -> str:
    """`980`, `271.9 k`, `40.6 M`, `1.814 G` (powers of 1000)."""
    if count is None:
        return DASH
    for unit, scale, digits in (("G", 1e9, 3), ("M", 1e6, 1), ("k", 1e3, 1)):
        if count >= scale:
            return f"{count / scale:.{digits}f} {unit}"
    return str(count)


def percent_text(fraction: float | None) -> str:
    """A share as percent with one digit, without the sign: `92.8`; never rounds to a full 100 or an empty 0."""
    if fraction is None:
        return DASH
    percent = 100 * fraction
    if 0 < percent < _SAME_PERCENT:
        return "<0.1"
    if 100 - _SAME_PERCENT < percent < 100:
        return ">99.9"
    return f"{percent:.1f}"


def ms_text(ms: float | None) -> str:
    """Three significant digits, two below 1 ms: `0.012`, `0.12`, `1.23`, `12.3`, `123`."""
    if ms is None:
        return DASH
    magnitude = math.floor(math.log10(ms)) if ms > 0 else 0
    digits = 2 - magnitude if magnitude >= 0 else 1 - magnitude
    return f"{ms:.{max(0, min(digits, 4))}f}"


def decibel_text(decibel: float | None) -> str:
    """`29.6 dB`, `120 dB`; `exact` for infinity (equal outputs); `NaN` where outputs are not numbers."""
    if decibel is None:
        return DASH
    if math.isnan(decibel):
        return "NaN"
    if math.isinf(decibel):
        return "exact" if decibel > 0 else f"{_MINUS}inf dB"
    return f"{decibel:.{1 if abs(decibel) < 100 else 0}f} dB".replace("-", _MINUS)


def seconds_text(seconds: float | None) -> str:
    """`0.4 s`, `12 s`, `3 min 05 s`."""
    if seconds is None:
        return DASH
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02d} s"


def change_text(new: float | None, old: float | None) -> str:
    """Relative change: `−74.1 %`, `+2.0 %`, `same`."""
    if new is None or not old:
        return DASH
    percent = 100 * (new / old - 1)
    return "same" if abs(percent) < _SAME_PERCENT else f"{percent:+.1f} %".replace("-", _MINUS)


def points_text(new: float | None, old: float | None) -> str:
    """Difference of two shares in percentage points: `−0.4`, `+1.2`, `same`."""
    if new is None or old is None:
        return DASH
    points = 100 * (new - old)
    return "same" if abs(points) < _SAME_PERCENT else f"{points:+.1f}".replace("-", _MINUS)


def factor_text(large: float, small: float) -> str:
    """Ratio of `large` to `small`: `3.9x`, or `8 %` where a factor would read as 1.0x or 1.1x."""
    factor = large / small if small else math.inf
    return f"{factor:.1f}x" if factor >= 1.15 else f"{100 * (factor - 1):.0f} %"


def speed_text(new: float, old: float) -> str:
    """Speed of one time against another: `2.1x faster`, `1.3x slower`, `same` (within 2 %)."""
    if max(new, old) < 1.02 * min(new, old):
        return "same"
    return f"{factor_text(old, new)} faster" if new < old else f"{factor_text(new, old)} slower"


def runs_text(count: int) -> str:
    """`1 run`, `3 runs`."""
    return f"{count} run{'' if count == 1 else 's'}"
