"""The accuracy ladder: ever more expensive quantization, climbed only as far as an accuracy budget needs.

Each rung starts from the best settings met below it and adds its own step, so a step that hurt is not carried upwards.
What a rung gave is measured on samples that nothing else decides by: neither calibration nor the test split.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import fx

from compress.core.budget import Limits, Verdict
from compress.core.stage import Progress
from compress.quantization.placement import Recipe
from compress.quantization.static import Recovery

__all__ = ["Climb", "Made", "Rung", "RungRecord", "Settings", "climb", "in_words"]


@dataclass(frozen=True)
class Settings:
    """Settings that a graph is quantized with; what a rung takes over from the rungs below."""

    recipe: Recipe
    recovery: Recovery

    def with_rounding(self, rounding: Literal["nearest", "adaptive"]) -> Settings:
        """The same with weights rounded so."""
        return replace(self, recovery=replace(self.recovery, rounding=rounding))


@dataclass(frozen=True)
class Made:
    """Result of a rung: a converted graph, the settings for it, and its steps in words."""

    graph: fx.GraphModule
    settings: Settings
    did: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rung:
    """One way to quantize.

    Attributes:
        make: quantizes afresh, starting from the best settings so far.
        obstacle: why it cannot be tried here; None if it can.
    """

    name: str
    make: Callable[[Settings], Made]
    obstacle: str | None = None


@dataclass(frozen=True)
class RungRecord:
    """Record of what one rung gave, for people and for `rungs.json`.

    Attributes:
        number: from 1, as on the ladder that was asked for.
        change_points: of top-1 against the source, in percentage points; negative is a loss.
        low_points, high_points: 95 % interval of the change.
        seconds: of making it, judging excluded.
        obstacle: why it was not tried; the numbers are None then.
    """

    number: int
    name: str
    change_points: float | None = None
    low_points: float | None = None
    high_points: float | None = None
    agreement: float | None = None
    sqnr_db: float | None = None
    samples: int | None = None
    seconds: float | None = None
    within_budget: bool = False
    did: tuple[str, ...] = ()
    obstacle: str | None = None


@dataclass(frozen=True)
class Climb:
    """A finished climb.

    Attributes:
        best: None when no rung could be tried.
        best_record: of the best rung; it is within the budget if any is.
        records: every rung looked at, in order.
    """

    best: Made | None
    best_record: RungRecord | None
    records: tuple[RungRecord, ...]

    @property
    def within_budget(self) -> bool:
        return self.best_record is not None and self.best_record.within_budget


def climb(
    rungs: Sequence[Rung],
    start: Settings,
    judge: Callable[[fx.GraphModule], Verdict],
    limits: Limits,
    progress: Progress,
    description: str,
) -> Climb:
    """Try each rung in turn until one is within `limits`; logs a line for each."""
    best: tuple[Made, RungRecord, Verdict] | None = None
    records: list[RungRecord] = []
    for number, rung in enumerate(rungs, 1):
        if rung.obstacle is not None:
            records.append(RungRecord(number, rung.name, obstacle=rung.obstacle))
        else:
            began = time.perf_counter()
            made = rung.make(best[0].settings if best else start)
            seconds = time.perf_counter() - began
            verdict = judge(made.graph)
            records.append(_record(number, rung.name, made, verdict, seconds, limits))
            if best is None or records[-1].within_budget or verdict.better_than(best[2]):
                best = made, records[-1], verdict
        progress.log(f"{description}: rung {number} {rung.name}: {in_words(records[-1])}")
        if records[-1].within_budget:
            break
    return Climb(best[0] if best else None, best[1] if best else None, tuple(records))


def in_words(record: RungRecord) -> str:
    """`top-1 -0.8 points (95 % -3.3 to +1.8, 128 images), agreement 99.2 %, SQNR 31.2 dB, 3.1 s`, then what it did."""
    if record.change_points is None:
        return f"not possible: {record.obstacle}"
    numbers = (
        f"top-1 {record.change_points:+.1f} points (95 % {record.low_points:+.1f} to {record.high_points:+.1f}, "
        f"{record.samples} images), agreement {100 * (record.agreement or 0):.1f} %, SQNR {record.sqnr_db:.1f} dB, "
        f"{record.seconds:.1f} s"
    )
    return f"{numbers}; {', '.join(record.did)}" if record.did else numbers


def _record(number: int, name: str, made: Made, verdict: Verdict, seconds: float, limits: Limits) -> RungRecord:
    low, high = verdict.interval_points
    return RungRecord(
        number=number,
        name=name,
        change_points=verdict.change_points,
        low_points=low,
        high_points=high,
        agreement=verdict.agreement,
        sqnr_db=verdict.sqnr_db,
        samples=verdict.samples,
        seconds=seconds,
        within_budget=limits.met_by(verdict),
        did=made.did,
    )
