"""Caveats of reports from before they were typed: read from the wording of their notes, once, on opening."""

from __future__ import annotations

from dataclasses import replace

from compress.core.measurement import Caveat, CaveatKind, Measurement

__all__ = ["with_caveats"]

_FIGURES = ("size_bytes", "parameters", "macs", "sparsity", "integers", "latency", "accuracy", "fidelity")
_EMULATED, _UNTRUSTED = "emulated: ", "not to be trusted: "


def with_caveats(row: Measurement) -> Measurement:
    """The row with the caveats that its notes put in words."""
    worded = {quantity: _caveat(row, quantity, row.notes[quantity]) for quantity in _FIGURES if quantity in row.notes}
    return replace(row, caveats={quantity: caveat for quantity, caveat in worded.items() if caveat is not None})


def _caveat(row: Measurement, quantity: str, note: str) -> Caveat | None:
    if getattr(row, quantity) is None:
        return Caveat(CaveatKind.MISSING, note)
    if note.startswith(_EMULATED):
        return Caveat(CaveatKind.EMULATED, note.removeprefix(_EMULATED))
    if note.startswith(_UNTRUSTED):
        return Caveat(CaveatKind.UNTRUSTED, note.removeprefix(_UNTRUSTED))
    return None  # a remark about a plain measurement
