"""The one way for a quantity to be absent: with a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from compress.core.errors import CompressError
from compress.core.measurement import Caveat, CaveatKind
from compress.formats.base import NotMeasured
from compress.support.quiet import first_line

__all__ = ["NotMeasured", "attempt", "unless_absent"]

T = TypeVar("T")


def unless_absent(quantity: str, caveats: dict[str, Caveat], measure: Callable[[], T]) -> T | None:
    """`measure()`, or None with the reason of `NotMeasured` as `caveats[quantity]`; any other error goes on."""
    try:
        return measure()
    except NotMeasured as reason:
        caveats[quantity] = Caveat(CaveatKind.MISSING, str(reason))
        return None


def attempt(quantity: str, caveats: dict[str, Caveat], measure: Callable[[], T]) -> T | None:
    """Measure what is only told beside a result, as `unless_absent`: whatever goes wrong is a reason and ends no run.

    Errors that are worded for the user go on.
    """
    try:
        return unless_absent(quantity, caveats, measure)
    except CompressError:
        raise
    except Exception as error:  # counters and readers of other packages raise anything on a network they do not know
        why = f"not measured: {type(error).__name__}: {first_line(error)}"
        caveats[quantity] = Caveat(CaveatKind.MISSING, why)
        return None
