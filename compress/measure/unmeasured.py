"""The one way for a quantity to be absent: with a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

__all__ = ["NotMeasured", "attempt"]

T = TypeVar("T")


class NotMeasured(Exception):  # not an error of the run: the row shows a dash and this reason
    """A quantity that cannot be measured on this artifact; the message is the reason shown to the user."""


def attempt(quantity: str, notes: dict[str, str], measure: Callable[[], T]) -> T | None:
    """`measure()`, or None with its reason added to `notes[quantity]`."""
    try:
        return measure()
    except NotMeasured as reason:
        notes[quantity] = str(reason)
        return None
