"""An orderly end on SIGTERM and SIGHUP: what is open is closed, what was started is ended, as on Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Terminated", "orderly_exit"]

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
_PATIENCE_SECONDS = 8.0
"""`docker stop` and others send SIGKILL 10 seconds after SIGTERM."""


class Terminated(SystemExit):
    """Somebody wants the process to end; `code` is 128 + the signal, as shells report it."""


@contextmanager
def orderly_exit() -> Iterator[None]:
    """Raise `Terminated` when a signal asks to end, so that `finally` blocks run.

    A second signal ends the process at once, and so does a process that does not end soon: the block, or Python itself
    behind it, may wait for threads. A signal that is ignored (`nohup`) stays ignored, and one that has a handler keeps
    it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        timer = threading.Timer(_PATIENCE_SECONDS, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()
        raise Terminated(128 + number)

    ours = [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
