"""Energy of one inference, from the power that a board read off its own monitors while it was timed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from compress.core.intervals import t95
from compress.results.device import DeviceRow

__all__ = ["Energy", "energy"]

_WHOLE_BOARD = "_IN"
"""Name's end of the rail that feeds the whole module: VDD_IN, on Jetson Nano POM_5V_IN (NVIDIA Jetson Linux Developer
Guide, power monitors). All other rails are fed by it."""


@dataclass(frozen=True)
class Energy:
    """Millijoules of one image, idle power included.

    Attributes:
        rail: what was metered; the whole board where it has a meter for that, else the rail with the highest power.
        readings: number of power readings; None where an older agent did not say.
        low_mj, high_mj: 95 % interval; None where fewer than two readings say nothing of their spread.
    """

    rail: str
    mj: float
    readings: int | None
    low_mj: float | None = None
    high_mj: float | None = None


def energy(row: DeviceRow) -> Energy | None:
    """Mean power times the median time of a call, over its batch; None where the board meters no power.

    The interval is that of a product of two independent estimates: relative errors add in quadrature. That of the
    power is Student's over its readings, that of the time is the median's.
    """
    powers = {rail: power for rail, power in (row.mean_watts or {}).items() if power is not None and power > 0}
    if row.latency is None or not powers:
        return None
    rail = _whole(powers)
    mj = powers[rail] * row.latency.median_ms / row.batch
    readings, deviation = (row.watts_readings or {}).get(rail), (row.watts_deviation or {}).get(rail)
    if readings is None or readings < 2 or deviation is None:
        return Energy(rail, mj, readings)
    of_power = t95(readings - 1) * deviation / math.sqrt(readings) / powers[rail]
    of_time = (row.latency.high_ms - row.latency.low_ms) / 2 / row.latency.median_ms
    half = mj * math.hypot(of_power, of_time)
    return Energy(rail, mj, readings, max(0.0, mj - half), mj + half)


def _whole(powers: dict[str, float]) -> str:
    whole = [rail for rail in powers if rail.upper().endswith(_WHOLE_BOARD)]
    return max(whole or powers, key=powers.__getitem__)
