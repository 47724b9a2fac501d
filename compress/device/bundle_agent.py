"""The files of this package that run on the device."""

from __future__ import annotations

from pathlib import Path

__all__ = ["AGENT", "COURIER"]

AGENT = Path(__file__).parent / "agent"
"""Scripts for the device, Python 3.6 or later, and the README of a bundle."""

COURIER = AGENT / "courier.py"
