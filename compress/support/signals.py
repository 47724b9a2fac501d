"""An orderly end on SIGTERM and SIGHUP: what is open is closed, what was started is ended, as on Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

__all__ = ["INTERRUPTED", "Terminated", "end_at_once_on_ctrl_c", "interrupted", "orderly_exit", "require_uninterrupted"]

INTERRUPTED = 130  # 128 + SIGINT, as shells report it

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
_PATIENCE_SECONDS = 8.0
"""`docker stop` and others send SIGKILL 10 seconds after SIGTERM."""


_interrupts: list[int] = []


class Terminated(SystemExit):
    """Somebody wants the process to end; `code` is 128 + the signal, as shells report it."""


def end_at_once_on_ctrl_c() -> None:
    """End with one line, and no traceback of an import: outside of `orderly_exit` there is nothing to close."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is ignored
        signal.signal(signal.SIGINT, _end_at_once)


def _end_at_once(number: int, frame: FrameType | None) -> None:
    with suppress(OSError):
        os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)


def interrupted() -> bool:
    """Tell whether Ctrl-C was pressed in the block: a library may have made another error of it, or none."""
    return bool(_interrupts)


def require_uninterrupted() -> None:
    """Ask between two pieces of work whether Ctrl-C was pressed in one that swallowed it: extension modules that are
    interrupted while they are imported make an `ImportError` of it, which who imported them takes for an answer.

    Raises:
        KeyboardInterrupt: it was.
    """
    watched = signal.getsignal(signal.SIGINT) not in _UNWATCHED  # inside `orderly_exit`
    if watched and interrupted():
        raise KeyboardInterrupt


_UNWATCHED = (signal.default_int_handler, _end_at_once)
"""What happens on Ctrl-C outside of `orderly_exit`."""


@contextmanager
def orderly_exit() -> Iterator[None]:
    """Raise `Terminated` when a signal asks to end, so that `finally` blocks run.

    A second signal ends the process at once, and so does a process that does not end soon: the block, or Python itself
    behind it, may wait for threads. A signal that is ignored (`nohup`) stays ignored, and one that has a handler keeps
    it. Ctrl-C raises `KeyboardInterrupt` as ever, and is remembered (`interrupted`).
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

    def interrupt(number: int, frame: FrameType | None) -> None:
        _interrupts.append(number)
        signal.default_int_handler(number, frame)

    ours = [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, end)
    before = signal.getsignal(signal.SIGINT)
    ctrl_c = before in _UNWATCHED
    if ctrl_c:
        _interrupts.clear()
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
        if ctrl_c:
            signal.signal(signal.SIGINT, before)
