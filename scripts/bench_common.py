"""What every bench shares: bars, the table that prints them, and `--json`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from compress.core.measurement import LatencyRatio

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@dataclass(frozen=True)
class Bar:
    """One promise and the figure measured for it; `value` is None where it could not be measured here."""

    name: str
    value: float | None
    unit: str
    bar: str
    holds: bool | None


def at_most(name: str, value: float | None, limit: float, unit: str) -> Bar:
    return Bar(name, value, unit, f"<= {limit:g}", None if value is None else value <= limit)


def at_least(name: str, value: float | None, limit: float, unit: str) -> Bar:
    return Bar(name, value, unit, f">= {limit:g}", None if value is None else value >= limit)


def no_slower(name: str, latency: LatencyRatio) -> Bar:
    """At most 1, or with an interval that reaches down to 1: a file raced against itself is off as far."""
    bar = f"<= 1 (95 %: {latency.low:.3f} to {latency.high:.3f})"
    return Bar(name, latency.ratio, "x", bar, latency.low <= 1)


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser that knows `--json` and `--data`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the bars as a JSON list")
    parser.add_argument("--data", type=Path, default=SHARED_DATA, help="folder of real models and images")
    return parser


def report(bars: Sequence[Bar], path: Path | None) -> None:
    """Print the bars, and write them to `path` if given. A bar that falls short is a finding, not an error."""
    table = Table("figure", "measured", "bar", "holds", title="bars")
    for bar in bars:
        value = "–" if bar.value is None else f"{bar.value:.4g} {bar.unit}"
        table.add_row(bar.name, value, bar.bar, {True: "yes", False: "NO", None: "not measured"}[bar.holds])
    Console().print(table)
    if path is not None:
        path.write_text(json.dumps([asdict(bar) for bar in bars], indent=2) + "\n")
