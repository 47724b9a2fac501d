"""Comparability of two stages: which of their figures may be held against each other."""

from __future__ import annotations

from collections.abc import Sequence

from compress.core.measurement import CaveatKind, Measurement

__all__ = ["comparable_latency", "label", "time_ratio", "why_not_comparable"]


def label(row: Measurement, quantity: str) -> str | None:
    """`emulated`, `estimate` or `untrusted` where the number is; None for a plain measurement, or none at all."""
    caveat = row.caveats.get(quantity)
    return None if caveat is None or caveat.kind is CaveatKind.MISSING else str(caveat.kind)


def why_not_comparable(new: Measurement, old: Measurement) -> str | None:
    """Reason why two latencies must not be divided by each other, in two words; None if they may be."""
    if new.latency is None or old.latency is None:
        return "not measured"
    if new.runtime != old.runtime:
        return "other runtime"
    if label(new, "latency") or label(old, "latency"):
        return label(new, "latency") or label(old, "latency")
    same_setting = (new.latency.threads, new.latency.batch, new.latency.device) == (
        old.latency.threads,
        old.latency.batch,
        old.latency.device,
    )
    return None if same_setting else "other setting"


def comparable_latency(rows: Sequence[Measurement], row: Measurement) -> Measurement | None:
    """The earliest row whose latency may be compared with `row`'s: same runtime and setting, nothing emulated."""
    earlier = rows[: rows.index(row)]
    return next((old for old in earlier if why_not_comparable(row, old) is None), None)


def time_ratio(new: Measurement, old: Measurement) -> float | None:
    """Time of `new` over that of `old`, from races where both took part in one, else of their medians.

    None where they must not be compared.
    """
    if why_not_comparable(new, old) is not None or new.latency is None or old.latency is None:
        return None
    if new.race and new.race.against == old.stage:
        return new.race.latency.ratio
    if new.race and old.race and new.race.against == old.race.against:
        return new.race.latency.ratio / old.race.latency.ratio
    return new.latency.median_ms / old.latency.median_ms
