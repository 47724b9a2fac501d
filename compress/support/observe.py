"""Figures told while work goes on, to whoever listens; without a listener telling them costs nothing.

    with listening(logger.scalar):
        observe("finetune/loss", 3, 0.21)        # anywhere below, as one logs a line

A loss that a training loop knows reaches a logger this way without every function in between handing it on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["Listener", "listening", "observe"]

Listener = Callable[[str, int, float], None]
"""Takes a series' name, the position in it (from 0), and the value."""

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def observe(series: str, position: int, value: float | None) -> None:
    """Tell one figure. What was not measured (None), infinity and NaN have no place in a plot and are left out."""
    listener = _listener.get()
    if listener is not None and value is not None and math.isfinite(value):
        listener(series, position, float(value))


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Let `listener` hear what is observed inside the block, in this thread."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
