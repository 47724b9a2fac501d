"""An orderly end on SIGTERM and SIGHUP: what is open is closed, what was started is ended, as on Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Terminated", "orderly_exit"]

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Terminated(SystemExit):
    """Somebody wants the process to end; `code` is 128 + the signal, as shells report it."""


@contextmanager
def orderly_exit() -> Iterator[None]:
    """Raise `Terminated` when a signal asks to end, so that `finally` blocks run; the second one ends at once.

    A signal that is ignored (`nohup`) stays ignored, and one that has a handler keeps it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise Terminated(128 + number)
