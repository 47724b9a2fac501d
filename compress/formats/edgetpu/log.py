"""The Edge TPU compiler's log (version 15 and 16): what it mapped, what not and why, and where parameters lie.

The table of operators stands in the `_edgetpu.log` file and, with `-s`, in the output as well.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["MAPPED", "CompilerLog", "OperatorRow", "parse_log"]

MAPPED = "Mapped to Edge TPU"

_ROW = re.compile(r"^(?P<kind>[A-Z][\w-]*)\s+(?P<count>\d+)\s+(?P<status>\S.*?)\s*$", re.MULTILINE)
_VERSION = re.compile(r"Edge TPU Compiler version (\S+)")
_SIZE = re.compile(r"^\s*([\d.]+)\s*(B|KiB|MiB|GiB)\s*$")
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


@dataclass(frozen=True)
class OperatorRow:
    """Operators of one kind that met the same end."""

    kind: str
    count: int
    status: str


@dataclass(frozen=True)
class CompilerLog:
    """Contents of the compiler's log; None for what it did not say.

    Attributes:
        version: of the compiler.
        rows: operators by kind and status.
        on_chip_bytes: parameters cached on the chip.
        on_chip_free_bytes: room that is left there.
        off_chip_bytes: parameters streamed from the host in every inference.
        subgraphs: parts that run on the Edge TPU.
    """

    version: str | None
    rows: tuple[OperatorRow, ...]
    on_chip_bytes: int | None
    on_chip_free_bytes: int | None
    off_chip_bytes: int | None
    subgraphs: int | None

    @property
    def operators(self) -> int:
        return sum(row.count for row in self.rows)

    @property
    def mapped(self) -> int:
        return sum(row.count for row in self.rows if row.status == MAPPED)

    @property
    def share(self) -> float | None:
        """Mapped operators over all; None where the log has no table."""
        return self.mapped / self.operators if self.operators else None

    @property
    def unmapped(self) -> tuple[OperatorRow, ...]:
        """Those left on the CPU."""
        return tuple(row for row in self.rows if row.status != MAPPED)

    def describe_unmapped(self) -> str:
        """`11 LEAKY_RELU (Operation not supported), ...`."""
        return ", ".join(f"{row.count} {row.kind} ({row.status})" for row in self.unmapped)

    def summary(self) -> str:
        """One line for the report."""
        parts = [f"compiler {self.version}" if self.version else "compiled"]
        if self.operators:
            left = f"; on the CPU: {self.describe_unmapped()}" if self.unmapped else ""
            parts.append(f"{self.mapped} of {self.operators} operators mapped{left}")
        if self.on_chip_bytes is not None:
            parts.append(f"{self.on_chip_bytes / _UNITS['MiB']:.2f} MiB of parameters on the chip")
        if self.off_chip_bytes:
            parts.append(f"{self.off_chip_bytes / _UNITS['MiB']:.2f} MiB streamed in every inference")
        if self.subgraphs is not None:
            parts.append(f"{self.subgraphs} subgraph{'' if self.subgraphs == 1 else 's'}")
        return "; ".join(parts)


def parse_log(text: str) -> CompilerLog:
    """Read the output of one compilation, the log file, or both one after the other (the table then counts once)."""
    rows = dict.fromkeys(
        OperatorRow(match["kind"], int(match["count"]), match["status"]) for match in _ROW.finditer(text)
    )
    version = _VERSION.search(text)
    subgraphs = _field(text, "Number of Edge TPU subgraphs")
    return CompilerLog(
        version=version[1] if version else None,
        rows=tuple(row for row in rows if row.kind != "Operator"),
        on_chip_bytes=_bytes(_field(text, "On-chip memory used for caching model parameters")),
        on_chip_free_bytes=_bytes(_field(text, "On-chip memory remaining for caching model parameters")),
        off_chip_bytes=_bytes(_field(text, "Off-chip memory used for streaming uncached model parameters")),
        subgraphs=int(subgraphs) if subgraphs and subgraphs.isdigit() else None,
    )


def _field(text: str, name: str) -> str | None:
    match = re.search(rf"^{re.escape(name)}: (.*)$", text, re.MULTILINE)
    return match[1].strip() if match else None


def _bytes(value: str | None) -> int | None:
    match = _SIZE.match(value or "")
    return round(float(match[1]) * _UNITS[match[2]]) if match else None
