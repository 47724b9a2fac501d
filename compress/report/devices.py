"""Measurements by the boards themselves, as a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from rich import box
from rich.table import Table
from rich.text import Text

from compress.core.errors import one_line
from compress.measure.estimate.roofline import Estimate
from compress.report.columns import Cell, device_heads, device_rows
from compress.report.text import ms_text
from compress.results.device import DeviceResult, DeviceRun

__all__ = ["device_notes", "devices_table", "estimate_lines"]


def devices_table(runs: Sequence[DeviceRun]) -> Table:
    """One row per model, thread count and batch size of every device."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False, header_style="")
    for head in device_heads(runs):
        justify: Literal["left", "right"] = "left" if head.words else "right"
        table.add_column(head.title, justify=justify, no_wrap=not head.words, overflow="fold")
    for name, *others, outputs in device_rows(runs):
        table.add_row(_marked(name, "yellow"), *(cell.value for cell in others), _marked(outputs, "red"))
    return table


def _marked(cell: Cell, style: str) -> Text:
    return Text.assemble(cell.value, " " if cell.value and cell.mark else "", (cell.mark, style))


def estimate_lines(estimates: Iterable[Estimate]) -> list[tuple[str, str]]:
    """Each file by its stage: the estimate, its range, and what it rests on."""
    return [(guess.stage, _guess(guess)) for guess in estimates]


def _guess(guess: Estimate) -> str:
    cores = f"{guess.threads} threads" if guess.threads > 1 else "the device's accelerator"
    span = f"{ms_text(guess.low_ms)} to {ms_text(guess.high_ms)} ms"
    return f"estimate {ms_text(guess.ms)} ms ({span}) with {cores}; {guess.basis}"


def device_notes(runs: Iterable[DeviceRun]) -> list[tuple[str, str]]:
    """Each device by name: what it is, and what makes its times worth less."""
    return [(one_line(run.name), one_line("; ".join([_facts(run.result), *_cautions(run.result)]))) for run in runs]


def _facts(result: DeviceResult) -> str:
    device = result.device
    governors = sorted({row.before.governor for row in result.results if row.before.governor})
    parts = [device.model, device.architecture, f"Python {device.python}", *(f"governor {name}" for name in governors)]
    heat = max((row.peak_celsius for row in result.results if row.peak_celsius is not None), default=None)
    return ", ".join(parts if heat is None else [*parts, f"up to {heat:.0f} °C"])


def _cautions(result: DeviceResult) -> list[str]:
    device = result.device
    found = []
    if device.emulated:
        found.append(f"emulated by {device.emulated}: outputs are real, times mean nothing")
    elif device.virtual_machine:
        found.append("a virtual machine")
    flags = {flag for row in result.results for flag in row.after.throttled or () if "since boot" not in flag}
    if flags:
        found.append(f"throttled while measuring: {', '.join(sorted(flags))}")
    if any(row.latency and not row.latency.settled for row in result.results):
        found.append("some medians had not settled within 2 %")
    return found
